"""Arguments and options that several commands of ``pas`` take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print one row per trial, as CSV, on stdout.")]
SweepName = Annotated[str, typer.Argument(metavar="SWEEP", help="Sweep id, or its name.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="Sweep file (YAML).")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the file.")
]
_LIMIT = typer.Option(
    metavar="LIMIT",
    help="At most 1: share of the supernet; above 1, or with a unit ('0.8 ms'): absolute.",
)
Limit = Annotated[str, _LIMIT]
OptionalLimit = Annotated[str | None, _LIMIT]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Registered model's name.")]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Ray cluster: auto, HOST:PORT of its head; as a job: http(s)://HOST:8265 or "
        "ray://HOST:10001.",
    ),
]
JobAddress = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        help="Cluster that the sweep was submitted to as a job; else it is looked for here.",
    ),
]
Detach = Annotated[bool, typer.Option("--detach", help="Submit as a job and return at once.")]
Code = Annotated[
    bool, typer.Option("--code", help="Send this machine's code to the cluster's nodes.")
]
OptionalSweep = Annotated[
    str | None, typer.Argument(metavar="[SWEEP]", help="Sweep id, or its name.")
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        envvar="MLFLOW_TRACKING_URI",
        help="MLflow store of the sweep; known already if it ran from this home folder.",
    ),
]
