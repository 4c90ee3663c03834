"""Commands that follow and end sweeps, here or on a cluster; and how one is submitted to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from orchestrator.cli_options import JobAddress, Json, OptionalSweep, SweepName, TrackingUri
from orchestrator.errors import UserError
from orchestrator.home import Home
from orchestrator.terminal import BAD_INPUT, DONE, FAILED, INTERRUPTED, err, out, plain, say, show

if TYPE_CHECKING:
    from orchestrator.ray_jobs import JobServer
    from orchestrator.submitted import SweepJob
    from orchestrator.tracking_reader import SweepInfo

_SAID = (DONE, FAILED, BAD_INPUT, INTERRUPTED)  # codes with which pas itself has said why


def status(
    sweep: OptionalSweep = None,
    address: JobAddress = None,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """List the sweeps, or the trials of one and what they used; with an address its jobs too."""
    from orchestrator.tables import jobs_table

    if address is None:
        document, tables = _tracked(sweep, tracking_uri)
        show(document, as_json, tables)
        return
    from orchestrator.ray_jobs import JobServer

    server = JobServer(address)
    jobs = server.jobs(sweep)
    listed = {"jobs": [job.to_json() for job in jobs]}
    try:
        document, tables = _tracked(sweep, tracking_uri)
    except UserError as error:
        if sweep is not None and not jobs:
            raise
        say(f"jobs alone: {error}")
        document, tables = {}, []
    if isinstance(document, list):
        document = {"sweeps": document}
    show({**document, **listed}, as_json, [*tables, jobs_table(jobs, f"jobs at {address}")])


def _tracked(sweep: str | None, tracking_uri: str | None) -> tuple[Any, list[Table | str]]:
    """Return what the tracking store holds of all sweeps or of one, as a document and as tables."""
    from orchestrator.accounting import summary, summary_text
    from orchestrator.lookup import load_sweep_records, store_of
    from orchestrator.tables import trial_table
    from orchestrator.tracking_reader import list_sweeps

    if sweep is None:
        sweeps = [_as_it_is(info) for info in list_sweeps(store_of(tracking_uri, None))]
        table = Table("sweep", "status", title="sweeps", title_justify="left")
        for info in sweeps:
            table.add_row(info.sweep_id, info.status)
        return [{"sweep_id": i.sweep_id, "status": i.status} for i in sweeps], [table]
    info, records = load_sweep_records(sweep, tracking_uri)
    info = _as_it_is(info)
    used = summary(records, info.totals, info.currency)
    document = {
        "sweep_id": info.sweep_id,
        "status": info.status,
        "usage": used,
        **plain(records),
    }
    table = trial_table(records, f"{info.sweep_id}: {info.status}")
    return document, [table, summary_text(used)]


def _as_it_is(info: SweepInfo) -> SweepInfo:
    """Return what the store holds of a sweep, killed if its driver was killed before it told."""
    from orchestrator.driver import has_died

    is_dead = info.status == "RUNNING" and has_died(Home.from_environment(), info.sweep_id)
    return dataclasses.replace(info, status="KILLED") if is_dead else info


def logs(
    sweep: SweepName,
    follow: Annotated[bool, typer.Option("--follow", help="Until the sweep ends.")] = False,
    address: JobAddress = None,
    as_json: Json = False,
) -> None:
    """Show what the driver of a sweep has said: of its latest job, or of all that ran here."""
    pieces: Iterator[str]
    if address is None:
        from orchestrator.driver import read_log

        home = Home.from_environment()
        sweep_id, job_id = _sweep_here(home, sweep), None
        pieces = read_log(home, sweep_id, follow=follow)
    else:
        from orchestrator.ray_jobs import JobServer

        server = JobServer(address)
        job = server.latest(sweep)
        sweep_id, job_id = job.sweep_id, job.job_id
        pieces = server.follow(job_id) if follow else iter([server.log(job_id)])
    if as_json:
        show({"sweep_id": sweep_id, "job_id": job_id, "log": "".join(pieces)}, as_json, [])
        return
    try:
        _print(pieces)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def stop(sweep: SweepName, address: JobAddress = None, as_json: Json = False) -> None:
    """End a sweep as Ctrl-C does, here or on a cluster; the same 'pas sweep' goes on with it."""
    if address is None:
        from orchestrator.driver import stop_driver

        home = Home.from_environment()
        sweep_id, job_id = _sweep_here(home, sweep), None
        was_running = stop_driver(home, sweep_id) is not None
    else:
        from orchestrator.ray_jobs import JobServer

        server = JobServer(address)
        job = server.latest(sweep)
        sweep_id, job_id = job.sweep_id, job.job_id
        was_running = not job.has_ended
        if was_running:
            with err.status(f"{job_id} closes its runs"):
                server.stop(job_id)
    ended = "stopped; the same 'pas sweep' goes on with it" if was_running else "is not running"
    document = {"sweep_id": sweep_id, "job_id": job_id, "was_running": was_running}
    show(document, as_json, [f"sweep {sweep_id} {ended}"])


def _sweep_here(home: Home, sweep: str) -> str:
    """Return the id of a sweep (id, or name) that was started from this home folder."""
    path = home.record_of(sweep)
    if path is None:
        raise UserError(
            f"no sweep {sweep!r} was started from home folder {home.root}; set PAS_HOME to its "
            "home, or give the --address that it was submitted to"
        )
    return path.parent.name


def check_options(address: str | None, *, detach: bool, dry_run: bool, code: bool) -> bool:
    """Return whether a sweep is to run as a job.

    Raises:
        UserError: options that do not go together.
    """
    from orchestrator.addresses import check_address, takes_jobs

    as_job = detach or takes_jobs(address)
    if address in {None, "local"} and (detach or code):
        option = "--detach" if detach else "--code"
        raise UserError(f"{option} is for clusters; give the --address of one")
    if as_job and dry_run:
        raise UserError(
            "--dry-run is not submitted; it shows a plan where the data is: there, leave out "
            "--address and --detach"
        )
    check_address(address)
    return as_job


def run_as_job(
    server: JobServer,
    sweep: tuple[str, str],
    entrypoint: str,
    code: Sequence[str],
    *,
    detach: bool,
    as_json: bool,
) -> None:
    """Submit a sweep (id and name); follow it to its end and leave with its exit code."""
    from orchestrator.tables import jobs_table

    job = server.submit(*sweep, entrypoint, code)
    if detach:
        show(job.to_json(), as_json, [jobs_table([job], "submitted")])
        return
    say(f"submitted as job {job.job_id}")
    try:
        _print(server.follow(job.job_id), as_json=as_json)
        job = server.ended(job.job_id)
    except KeyboardInterrupt:
        say(f"the job goes on; 'pas stop {job.sweep_id} --address …' ends it")
        raise typer.Exit(INTERRUPTED) from None
    _tell_end(job)
    raise typer.Exit(job.outcome)


def _tell_end(job: SweepJob) -> None:
    if job.state == "STOPPED":
        say("the job was stopped; the same command goes on from here")
    elif job.message and job.exit_code not in _SAID:
        say(job.message)


def _print(pieces: Iterator[str], *, as_json: bool = False) -> None:
    """Print a log as it comes; with ``as_json`` only the document in it goes to stdout."""
    lines = split_document(pieces) if as_json else ((True, piece) for piece in pieces)
    for is_result, text in lines:
        stream = out.file if is_result else err.file
        stream.write(text)
        stream.flush()


def split_document(pieces: Iterator[str]) -> Iterator[tuple[bool, str]]:
    """Yield the lines of a log and whether each is part of the JSON document that ``pas`` prints.

    A job's stdout and stderr are one log. The document is indented: it goes from a line that is
    ``{`` alone to one that is ``}``.
    """
    inside, rest = False, ""
    for piece in pieces:
        *lines, rest = (rest + piece).split("\n")
        for line in lines:
            inside = inside or line == "{"
            yield inside, f"{line}\n"
            inside = inside and line != "}"
    if rest:
        yield inside, rest
