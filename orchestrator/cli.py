"""The ``pas`` command. Results go to stdout, progress and messages to stderr."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli_cluster import check_options, logs, run_as_job, status, stop
from orchestrator.cli_models import history, promote, rollback
from orchestrator.cli_options import (
    Address,
    Code,
    Detach,
    File,
    Json,
    Limit,
    Overrides,
    SweepName,
)
from orchestrator.cli_results import compare, pareto, report, ui
from orchestrator.cli_serving import serve
from orchestrator.cli_shipping import export, fetch, predict, publish
from orchestrator.errors import SweepStoppedError, UserError
from orchestrator.home import Home
from orchestrator.terminal import (
    DONE,
    FAILED,
    INTERRUPTED,
    err,
    fail,
    limit_of,
    out,
    plain,
    resumable,
    show,
)

if TYPE_CHECKING:
    from orchestrator.preflight import Plan


def sweep(
    file: File,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show the plan.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Shrink the sweep to a minute.")] = False,
    address: Address = None,
    detach: Detach = False,
    code: Code = False,
    new: Annotated[
        bool, typer.Option("--new", help="Beside a sweep of this name with other settings.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Validate FILE, show the plan, run it. The same command again resumes it."""
    from orchestrator.loading import load_sweep
    from orchestrator.run import prepare
    from orchestrator.submission import code_folders, sweep_entrypoint

    if check_options(address, detach=detach, dry_run=dry_run, code=code):
        from orchestrator.ray_jobs import JobServer

        options = ["--new"] * new + ["--json"] * as_json
        config, command = sweep_entrypoint(
            file, overrides or [], smoke=smoke, options=options, with_code=code
        )
        folders = code_folders(*config.imports) if code else []
        names = (config.sweep_id, config.name)
        server = JobServer(str(address))
        run_as_job(server, names, command, folders, detach=detach, as_json=as_json)
        return
    config = load_sweep(file, overrides or [], smoke=smoke)
    home = Home.from_environment()
    plan = prepare(config, home, err, address=address, dry_run=dry_run, new=new)
    folders = code_folders(*config.imports) if code else []
    _run_plan(plan, home, address, folders, dry_run=dry_run, as_json=as_json)


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
    detach: Detach = False,
    code: Code = False,
    as_json: Json = False,
) -> None:
    """Add trials, limits or strengths to a sweep and run them; finished trials stay."""
    from orchestrator.growth import extended
    from orchestrator.run import prepare
    from orchestrator.submission import code_folders, entrypoint

    if trials is None and not limits and not strengths:
        raise UserError("name what to add: --trials N, --limit LIMIT or --strength S")
    if check_options(address, detach=detach, dry_run=dry_run, code=code):
        from orchestrator.ray_jobs import JobServer

        server = JobServer(str(address))
        names = server.sweep_named(sweep)
        options = [f"--trials={trials}"] * (trials is not None) + ["--json"] * as_json
        options += [f"--limit={limit}" for limit in limits or []]
        options += [f"--strength={strength}" for strength in strengths or []]
        command = entrypoint(["extend", names[0], *options], with_code=code)
        folders = code_folders() if code else []
        run_as_job(server, names, command, folders, detach=detach, as_json=as_json)
        return
    home = Home.from_environment()
    added = [limit_of(limit) for limit in limits or []]
    config = extended(home, sweep, trials=trials, limits=added, strengths=strengths or [])
    plan = prepare(config, home, err, address=address, dry_run=dry_run)
    folders = code_folders(*config.imports) if code else []
    _run_plan(plan, home, address, folders, dry_run=dry_run, as_json=as_json)


def _run_plan(
    plan: Plan,
    home: Home,
    address: str | None,
    code: Sequence[str],
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
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
        outcome = run_sweep(plan, home, err, address=address, code=code)
    records = outcome.records
    show(
        {
            "sweep_id": outcome.sweep_id,
            "resource": outcome.resource,
            f"supernet_{outcome.metric}": outcome.supernet[0],
            f"supernet_test_{outcome.metric}": outcome.supernet[1],
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


def search(
    file: File,
    budget: Limit,
    strength: Annotated[float, typer.Option(help="Weight of the budget loss.")],
    number: Annotated[int, typer.Option(min=0, help="Index in its cell; decides the seed.")] = 0,
    hyperparameters: Annotated[
        list[str] | None,
        typer.Option("--hyperparameter", metavar="NAME=VALUE", help="In place of the file's."),
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Run one trial of FILE here: no Ray, no server. Files go to the home folder's searches/."""
    from orchestrator.loading import load_sweep
    from orchestrator.single import read_hyperparameters, search_one
    from orchestrator.tables import trial_table

    sets = [
        *(overrides or []),
        f"budget.limits=[{json.dumps(limit_of(budget))}]",
        f"strengths=[{strength}]",
    ]
    chosen, home = read_hyperparameters(hyperparameters or []), Home.from_environment()
    with resumable():
        record, folder = search_one(
            load_sweep(file, sets), home, err, number=number, hyperparameters=chosen
        )
    document = {**record.to_json(), "folder": str(folder)}
    show(document, as_json, [trial_table([record], f"files in {folder}")])
    if record.status != "FINISHED":
        raise typer.Exit(FAILED)


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


app = typer.Typer(
    name="pas",
    help="Find the best channel widths of a vision network, at every budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_COMMANDS: tuple[Callable[..., Any], ...] = (
    *(sweep, extend, search, latency),
    *(status, logs, stop),
    *(compare, pareto, report),
    *(promote, rollback, history, ui),
    *(export, predict, publish, fetch, serve),
)


def _told(command: Callable[..., Any]) -> Callable[..., Any]:
    """Tell a person who interrupts a command that it heard, unless it says more itself."""

    @functools.wraps(command)
    def run(*values: Any, **options: Any) -> Any:
        try:
            return command(*values, **options)
        except KeyboardInterrupt:
            err.print("interrupted")
            raise typer.Exit(INTERRUPTED) from None

    return run


for _command in _COMMANDS:
    app.command()(_told(_command))


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"pas {importlib.metadata.version('pas-orchestrator')}", highlight=False)
        raise typer.Exit


@app.callback()
def _pas(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Find the best channel widths of a vision network, at every budget."""


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
