"""Commands that show what a sweep found, and use it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli_options import Csv, Json, SweepName, TrackingUri
from orchestrator.errors import UserError
from orchestrator.home import Home
from orchestrator.records import TrialRecord
from orchestrator.terminal import plain, show, show_csv


def compare(
    sweep: SweepName, tracking_uri: TrackingUri = None, as_json: Json = False, as_csv: Csv = False
) -> None:
    """Show the best trial of each cell: budgets x strengths."""
    from orchestrator.lookup import load_sweep_records
    from orchestrator.tables import compare_table

    _check_one_format(as_json=as_json, as_csv=as_csv)
    info, records = load_sweep_records(sweep, tracking_uri)
    if as_csv:
        show_csv(records)
        return
    document = {
        "sweep_id": info.sweep_id,
        "resource": info.resource,
        f"supernet_{info.metric}": info.supernet_score,
        f"supernet_test_{info.metric}": info.supernet_test_score,
        **(plain(records) if as_json else {}),
    }
    supernet = (info.supernet_score, info.supernet_test_score)
    table = compare_table(records, info.resource, info.sweep_id, supernet)
    show(document, as_json, [_nothing_yet(records, info.sweep_id) or table])


def pareto(
    sweep: SweepName, tracking_uri: TrackingUri = None, as_json: Json = False, as_csv: Csv = False
) -> None:
    """Show the front (trials that no other beats in both score and cost) and the controls."""
    from orchestrator.lookup import load_sweep_records
    from orchestrator.tables import controls_tables, front_table

    _check_one_format(as_json=as_json, as_csv=as_csv)
    info, records = load_sweep_records(sweep, tracking_uri)
    shown = [r for r in records if r.on_front or r.control is not None]
    if as_csv:
        show_csv(shown)
        return
    document = {"sweep_id": info.sweep_id, "resource": info.resource, **plain(shown)}
    table = front_table(records, f"Pareto front of {info.sweep_id}", info.resource)
    tables = [table, *controls_tables(records, info.resource)]
    nothing = _nothing_yet(records, info.sweep_id)
    show(document, as_json, [nothing] if nothing else tables)


def _nothing_yet(records: Sequence[TrialRecord], sweep_id: str) -> str:
    """Return that nothing can be shown yet; empty if something can."""
    if any(record.status == "FINISHED" for record in records):
        return ""
    return f"no trial of {sweep_id} has finished yet; 'pas status {sweep_id}' shows what there is"


def report(
    sweep: SweepName,
    out_file: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Page to write (HTML).")
    ] = Path("report.html"),
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Write one self-contained page about a sweep: its front, cells, widths, cost and failures."""
    from orchestrator.lookup import find_recorded_sweep
    from orchestrator.report import check_out, collect, write_report

    check_out(out_file)
    uri, info = find_recorded_sweep(sweep, tracking_uri)
    collected = collect(uri, info)
    write_report(collected, out_file)
    document = {
        "sweep_id": info.sweep_id,
        "status": info.status,
        "report": str(out_file),
        "front": [member.trial_id for member in collected.members],
    }
    show(document, as_json, [f"{out_file}: report on {info.sweep_id}"])


def _check_one_format(*, as_json: bool, as_csv: bool) -> None:
    if as_json and as_csv:
        raise UserError("--json and --csv are two formats; give one of them")


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
    as_json: Json = False,
) -> None:
    """Serve the MLflow UI of the home folder's store, for this machine only, until Ctrl-C.

    Shown are the addresses of the latest sweeps' pages in it.
    """
    from orchestrator.ui import latest_pages, serve_ui

    home = Home.from_environment()

    def ready(url: str) -> None:
        pages = latest_pages(home, url)
        document = {"url": url, "sweeps": pages}
        show(document, as_json, [f"MLflow UI at {url} (Ctrl-C to stop)"])
        if not as_json:  # rich would break an address at the window's edge
            sys.stdout.writelines(f"{sweep_id}: {page}\n" for sweep_id, page in pages.items())
        sys.stdout.flush()

    serve_ui(home, port, ready)
