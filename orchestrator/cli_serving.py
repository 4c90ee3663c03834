"""The command that serves a registered model."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli_options import Json, TrackingUri
from orchestrator.cli_shipping import Alias, AllowImport, Engine, ModelOrFolder, Version, told
from orchestrator.terminal import INTERRUPTED, say, show

if TYPE_CHECKING:
    from orchestrator.serving import Serving


Batch = Annotated[
    int,
    typer.Option(min=1, help="Images classified together, at most; no fewer than --max-images."),
]
BatchWait = Annotated[
    float, typer.Option(min=0, max=1000, help="For how long a batch waits for more images.")
]
Timeout = Annotated[
    float, typer.Option(min=0.1, max=86400, help="Seconds that a request may take.")
]
Poll = Annotated[
    float,
    typer.Option(min=0, max=86400, help="Seconds between looks for another version; 0: never."),
]
MaxBody = Annotated[float, typer.Option(min=0.001, max=1024, help="Size of a request.")]
MaxRequests = Annotated[int, typer.Option(min=1, help="Requests at a time, for each replica.")]
Address = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Ray cluster: auto, or HOST:PORT of its head.")
]


def serve(
    model: ModelOrFolder,
    alias: Alias = None,
    version: Version = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 8000,
    engine: Annotated[
        Engine | None, typer.Option(help="What computes; by default onnx where it is installed.")
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="Processes that classify.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each of them.")] = 1,
    batch: Batch = 64,
    batch_wait_ms: BatchWait = 2.0,
    max_body_mib: MaxBody = 16.0,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels of an image.")] = 25_000_000,
    max_images: Annotated[int, typer.Option(min=1, help="Images in a request.")] = 32,
    max_requests: MaxRequests = 128,
    timeout: Timeout = 30,
    poll: Poll = 10,
    address: Address = None,
    allow_import: AllowImport = False,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Serve a version by HTTP until Ctrl-C, and the next one when the alias moves to it."""
    from deploy.serving_requests import Limits
    from orchestrator.serving import (
        TOKEN_VARIABLE,
        ServingOptions,
        is_loopback,
        serve_model,
        token_of_environment,
    )
    from orchestrator.wanted import Wanted

    body_bytes = int(max_body_mib * (1 << 20))
    options = ServingOptions(
        host=host,
        port=port,
        engine=engine and engine.value,
        replicas=replicas,
        threads=threads,
        batch_images=batch,
        batch_wait_s=batch_wait_ms / 1000,
        limits=Limits(
            body_bytes=body_bytes,
            held_bytes=max(Limits().held_bytes, 2 * body_bytes),
            pixels=max_pixels,
            images=max_images,
            requests=max_requests,
            timeout_s=timeout,
        ),
        poll_s=poll,
        address=address,
    )
    wanted = Wanted(
        model=model,
        alias=alias,
        version=version,
        tracking_uri=tracking_uri,
        allow_import=allow_import,
    )
    if not is_loopback(host) and not token_of_environment():
        say(
            f"warning: {host} can be reached from other machines, and anybody there may send "
            f"images; set {TOKEN_VARIABLE} to a token that requests must bring"
        )

    try:
        with told("served"):
            serve_model(wanted, options, ready=lambda s: _show_ready(s, as_json), tell=say)
    except KeyboardInterrupt:  # before it began; else that is how a server ends
        raise typer.Exit(INTERRUPTED) from None


def _show_ready(serving: Serving, as_json: bool) -> None:
    document = {
        "url": serving.url,
        "model": serving.model,
        "version": serving.version,
        "engine": serving.engine,
        "token": serving.token,
    }
    where = f"version {serving.version} ({serving.engine}) at {serving.url}"
    show(document, as_json, [f"{serving.model}, {where} (Ctrl-C to stop)"])
    sys.stdout.flush()
