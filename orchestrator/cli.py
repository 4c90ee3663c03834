"""The ``pas`` command. Results go to stdout, progress and messages to stderr."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from orchestrator.errors import SweepStoppedError, UserError
from orchestrator.home import Home
from orchestrator.terminal import DONE, FAILED, err, fail, limit_of, plain, resumable, show

if TYPE_CHECKING:
    from orchestrator.preflight import Plan

app = typer.Typer(
    name="pas",
    help="Find the best channel widths of a vision network, at every budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
SweepName = Annotated[str, typer.Argument(metavar="SWEEP", help="Sweep id, or its name.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="Sweep file (YAML).")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the file.")
]
Limit = Annotated[
    str,
    typer.Option(
        metavar="LIMIT",
        help="At most 1: share of the supernet; above 1, or with a unit ('0.8 ms'): absolute.",
    ),
]
Address = Annotated[str | None, typer.Option(help="Ray cluster (auto, ray://HOST:PORT).")]
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


@app.command()
def sweep(
    file: File,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show the plan.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Shrink the sweep to a minute.")] = False,
    address: Address = None,
    new: Annotated[
        bool, typer.Option("--new", help="Beside a sweep of this name with other settings.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Validate FILE, show the plan, run it. The same command again resumes it."""
    from orchestrator.loading import load_sweep
    from orchestrator.run import prepare

    config = load_sweep(file, overrides or [], smoke=smoke)
    home = Home.from_environment()
    plan = prepare(config, home, err, address=address, dry_run=dry_run, new=new)
    _run_plan(plan, home, address, dry_run=dry_run, as_json=as_json)


@app.command()
def extend(
    sweep: SweepName,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials of each cell, in all.")] = None,
    limits: Annotated[
        list[str] | None, typer.Option("--limit", metavar="LIMIT", help="A budget more.")
    ] = None,
    strengths: Annotated[
        list[float] | None, typer.Option("--strength", help="A strength more.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show the plan.")] = False,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Add trials, limits or strengths to a sweep and run them; finished trials stay."""
    from orchestrator.growth import extended
    from orchestrator.run import prepare

    home = Home.from_environment()
    added = [limit_of(limit) for limit in limits or []]
    config = extended(home, sweep, trials=trials, limits=added, strengths=strengths or [])
    plan = prepare(config, home, err, address=address, dry_run=dry_run)
    _run_plan(plan, home, address, dry_run=dry_run, as_json=as_json)


def _run_plan(plan: Plan, home: Home, address: str | None, *, dry_run: bool, as_json: bool) -> None:
    """Show a plan and run it, unless only asked for the plan."""
    from orchestrator.accounting import summary_text
    from orchestrator.preflight import describe
    from orchestrator.run import run_sweep
    from orchestrator.tables import compare_table, controls_tables, front_table, plan_table

    summary = describe(plan)
    if dry_run:
        show(summary, as_json, [plan_table(summary)])
        return
    err.print(plan_table(summary))
    with resumable():
        outcome = run_sweep(plan, home, err, address=address)
    records = outcome.records
    show(
        {
            "sweep_id": outcome.sweep_id,
            "resource": outcome.resource,
            "supernet_accuracy": outcome.supernet[0],
            "supernet_test_accuracy": outcome.supernet[1],
            "compute_saved": round(outcome.compute_saved, 4),
            "usage": outcome.usage,
            "given_up": outcome.given_up,
            **plain(records),
        },
        as_json,
        [
            compare_table(records, outcome.resource, outcome.sweep_id, outcome.supernet),
            front_table(records, "Pareto front", outcome.resource),
            *controls_tables(records, outcome.resource),
        ],
    )
    err.print(summary_text(outcome.usage), highlight=False)
    for cell in outcome.given_up:
        failed = plan.config.max_failures_per_cell
        err.print(f"{cell} was given up: {failed} trials failed in a row (max_failures_per_cell)")
    lost = [r for r in records if r.status == "FAILED"]
    if lost:
        err.print(
            f"{len(lost)} of {len(records)} trials failed; see: pas status {plan.config.name}"
        )
        raise typer.Exit(FAILED)


@app.command()
def search(
    file: File,
    budget: Limit,
    strength: Annotated[float, typer.Option(help="Weight of the budget loss.")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Run one trial of FILE here: no Ray, no server. Files go to the home folder's searches/."""
    from orchestrator.loading import load_sweep
    from orchestrator.single import search_one
    from orchestrator.tables import trial_table

    sets = [
        f"budget.limits=[{json.dumps(limit_of(budget))}]",
        f"strengths=[{strength}]",
        *(overrides or []),
    ]
    with resumable():
        record, folder = search_one(load_sweep(file, sets), Home.from_environment(), err)
    document = {**record.to_json(), "folder": str(folder)}
    show(document, as_json, [trial_table([record], f"files in {folder}")])
    if record.status != "FINISHED":
        raise typer.Exit(FAILED)


@app.command()
def latency(
    file: File,
    out_file: Annotated[Path, typer.Option("--out", metavar="TABLE", help="File to write (JSON).")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Measure the supernet's operators on the device that FILE names. No Ray, no server.

    Run it on the target device; latency.table of a sweep file names the result.
    """
    from orchestrator.latency_table import check_target, measure_table, write_table_file
    from orchestrator.loading import load_sweep
    from orchestrator.preflight import make_plan

    config = load_sweep(file, overrides or [])
    check_target(config.latency)
    with err.status("data") as progress:
        plan = make_plan(config, progress.update)
    table = measure_table(plan, Home.from_environment(), err)
    write_table_file(plan, table, out_file)
    document = {"table": str(out_file), "device": table.device}
    show(document, as_json, [f"{out_file}: measured on {table.device}"])


@app.command()
def status(
    sweep: OptionalSweep = None, tracking_uri: TrackingUri = None, as_json: Json = False
) -> None:
    """List the sweeps, or the trials of one and what they used."""
    from orchestrator.accounting import summary, summary_text
    from orchestrator.lookup import load_sweep_records, store_of
    from orchestrator.tables import trial_table
    from orchestrator.tracking_reader import list_sweeps

    if sweep is None:
        sweeps = list_sweeps(store_of(tracking_uri, None))
        table = Table("sweep", "status", title="sweeps", title_justify="left")
        for info in sweeps:
            table.add_row(info.sweep_id, info.status)
        show([{"sweep_id": i.sweep_id, "status": i.status} for i in sweeps], as_json, [table])
        return
    info, records = load_sweep_records(sweep, tracking_uri)
    used = summary(records, info.totals, info.currency)
    document = {
        "sweep_id": info.sweep_id,
        "status": info.status,
        "usage": used,
        **plain(records),
    }
    table = trial_table(records, f"{info.sweep_id}: {info.status}")
    show(document, as_json, [table, summary_text(used)])


@app.command()
def compare(sweep: SweepName, tracking_uri: TrackingUri = None, as_json: Json = False) -> None:
    """Show the best trial of each cell: budgets x strengths."""
    from orchestrator.lookup import load_sweep_records
    from orchestrator.tables import compare_table

    info, records = load_sweep_records(sweep, tracking_uri)
    document = {
        "sweep_id": info.sweep_id,
        "resource": info.resource,
        "supernet_accuracy": info.supernet_accuracy,
        "supernet_test_accuracy": info.supernet_test_accuracy,
        **plain(records),
    }
    supernet = (info.supernet_accuracy, info.supernet_test_accuracy)
    table = compare_table(records, info.resource, info.sweep_id, supernet)
    show(document, as_json, [table])


@app.command()
def pareto(sweep: SweepName, tracking_uri: TrackingUri = None, as_json: Json = False) -> None:
    """Show the front (trials that no other beats in both accuracy and cost) and the controls."""
    from orchestrator.lookup import load_sweep_records
    from orchestrator.tables import controls_tables, front_table

    info, records = load_sweep_records(sweep, tracking_uri)
    shown = [r for r in records if r.on_front or r.control is not None]
    document = {"sweep_id": info.sweep_id, "resource": info.resource, **plain(shown)}
    table = front_table(records, f"Pareto front of {info.sweep_id}", info.resource)
    show(document, as_json, [table, *controls_tables(records, info.resource)])


@app.command()
def promote(
    sweep: SweepName,
    budget: Limit,
    model: Annotated[str, typer.Option(help="Registered model's name.")],
    alias: Annotated[str, typer.Option(help="Alias that moves to the new version.")] = "champion",
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Register the most accurate front member within a budget and move the alias to it."""
    from orchestrator.lookup import load_sweep_records, store_of
    from orchestrator.promotion import GateRefusedError
    from orchestrator.promotion import promote as promote_best
    from orchestrator.tables import cost_text

    info, records = load_sweep_records(sweep, tracking_uri)
    try:
        record, promoted = promote_best(
            Home.from_environment(),
            records,
            limit=budget,
            model_name=model,
            alias=alias,
            tracking_uri=store_of(tracking_uri, sweep),
        )
    except GateRefusedError as error:
        err.print(f"not promoted: {error}", style="red", highlight=False)
        raise typer.Exit(FAILED) from None
    document = {
        "model": promoted.name,
        "version": promoted.version,
        "alias": promoted.alias,
        "model_uri": promoted.model_uri,
        "parity_error": promoted.parity_error,
        "resource": info.resource,
        "cost": record.cost(info.resource),
        "trial": record.to_json(),
    }
    cost = "of supernet" if info.resource == "macs" else info.resource
    table = Table("model", "version", "alias", "trial", "accuracy", cost, "parity error")
    table.add_row(
        promoted.name,
        str(promoted.version),
        promoted.alias,
        record.trial_id,
        f"{record.accuracy:.4f}",
        cost_text(record, info.resource),
        f"{promoted.parity_error:.1e}",
    )
    show(document, as_json, [table])


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
    as_json: Json = False,
) -> None:
    """Serve the MLflow UI of the home folder's store, for this machine only, until Ctrl-C."""
    from orchestrator.ui import serve_ui

    home = Home.from_environment()

    def ready(url: str) -> None:
        show({"url": url}, as_json, [f"MLflow UI at {url} (Ctrl-C to stop)"])
        sys.stdout.flush()

    serve_ui(home, port, ready)


def main() -> None:
    """Run the command line; every expected error is one sentence and an exit code."""
    try:
        app()
    except SweepStoppedError as error:
        fail(f"sweep stopped: {error}. What has finished is kept; the same command goes on")
    except UserError as error:
        fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(DONE)


if __name__ == "__main__":
    main()
