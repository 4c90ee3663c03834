"""``pas serve``: a promoted version behind HTTP, followed as its alias moves."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from deploy.serving_requests import Limits
from orchestrator.addresses import check_address, check_free, is_own, takes_jobs
from orchestrator.driver import arm_termination, terminate_as_interrupt
from orchestrator.errors import UserError
from orchestrator.home import Home
from orchestrator.serving_source import Source, Tell, pointer_file
from orchestrator.wanted import Wanted

TOKEN_VARIABLE = "PAS_SERVE_TOKEN"  # noqa: S105 - the name of a variable, not a token
NEEDED = ("ray", "fastapi", "starlette", "uvicorn", "multipart", "prometheus_client")
"""Packages of the extra ``serve``."""
_IDLE_S = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingOptions:
    """How a model is served.

    Attributes:
        host: address to bind.
        port: the same.
        engine: ``torch`` or ``onnx``; ``None``: ONNX Runtime where there can be an ONNX network.
        replicas: processes that classify.
        threads: that each of them computes with.
        batch_images: images classified together, at most.
        batch_wait_s: for how long the first request of a batch waits for others.
        limits: what requests may cost.
        poll_s: how often the registry is asked for another version; 0: never.
        address: of a Ray cluster; ``None``: a Ray of its own, on this machine.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    engine: str | None = None
    replicas: int = 1
    threads: int = 1
    batch_images: int = 64
    batch_wait_s: float = 0.002
    limits: Limits = field(default_factory=Limits)
    poll_s: float = 10.0
    address: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """What is served, where, for whom."""

    url: str
    model: str
    version: int
    engine: str
    token: bool


def serve_model(
    wanted: Wanted,
    options: ServingOptions,
    *,
    ready: Callable[[Serving], None],
    tell: Tell = lambda _: None,
) -> None:
    """Serve a version, or an exported folder, until interrupted (Ctrl-C, or SIGTERM).

    Args:
        wanted: which.
        options: how.
        ready: called once requests are answered.
        tell: called with lines on progress, and on what goes wrong while serving.

    Raises:
        UserError: it cannot begin.
        ValueError: of the kinds that :func:`orchestrator.shipping.export` tells of.
    """
    check_installed()
    if takes_jobs(options.address):
        raise UserError(
            f"--address {options.address} takes jobs; pas serve runs on a cluster that it is part "
            "of: auto, or HOST:PORT of the head"
        )
    check_address(options.address)
    if is_own(options.address):
        check_free(options.host, options.port)
    token = token_of_environment()
    with terminate_as_interrupt(), _folder() as folder, ExitStack() as session:
        source = Source(wanted, options.engine, folder)
        tell(f"exporting {wanted.model}")
        source.refresh(tell)
        tell("starting Ray Serve")
        from orchestrator.serving_session import serve_on_ray

        session.enter_context(serve_on_ray(options, pointer_file(folder), token))
        arm_termination()
        host = "127.0.0.1" if options.host in {"", "0.0.0.0"} else options.host  # noqa: S104
        url = f"http://{f'[{host}]' if ':' in host else host}:{options.port}"
        ready(
            Serving(
                url=url,
                model=source.manifest.model,
                version=source.manifest.version,
                engine=source.pointer.engine,
                token=token is not None,
            )
        )
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(options.poll_s or _IDLE_S)
                if options.poll_s and source.follows:
                    source.try_refresh(tell)
        tell("stopping")


def check_installed() -> None:
    """Check that the extra is there.

    Raises:
        UserError: it is not.
    """
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"pas serve needs {name}, not installed here; pip install 'pas-orchestrator[serve]'"
            )


def token_of_environment() -> str | None:
    """Return the token that requests must bring; files of secrets often end with a new line."""
    return os.environ.get(TOKEN_VARIABLE, "").strip() or None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


@contextmanager
def _folder() -> Iterator[Path]:
    """Give a folder of the home folder, which nodes of a cluster share; nothing is left of it."""
    root = Home.from_environment().root
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="serving-", dir=root) as folder:
        yield Path(folder)
