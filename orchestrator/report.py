"""``pas report``: one self-contained page about a sweep, from what MLflow holds of it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from orchestrator.cells import Cell
from orchestrator.config import SweepConfig
from orchestrator.errors import UserError
from orchestrator.home import write_text
from orchestrator.loading import parse_recorded
from orchestrator.pareto import front
from orchestrator.records import TrialRecord, controls_among, without_controls
from orchestrator.spool import SEARCH_WIDTHS
from orchestrator.tracking_reader import SweepInfo, find_sweep, read_text, records_of
from orchestrator.tracking_requests import write_artifacts
from orchestrator.tracking_server import TrackingError, describe, open_client
from search_space import absolute_limit, read_limit

if TYPE_CHECKING:
    from orchestrator.importance import Importance
    from orchestrator.report_figures import Curve

T = TypeVar("T")

SWEEP_FILE, SUPERNET_WIDTHS, REPORT = "sweep.yaml", "supernet_widths.json", "report.html"
"""Artifacts of a sweep's run."""

MOST_MEMBERS = 16
"""Members of the front whose widths and curves are drawn; of more, as many evenly spread."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepReport:
    """What a report tells, as it was at one moment.

    Attributes:
        info: the sweep.
        records: its trials and controls, the front marked.
        config: its settings.
        sweep_file: the same as they are recorded, YAML.
        supernet_widths: channels by channel group, if they are known.
        curves: of the drawn members of the front, by trial id.
        importance: of the hyper-parameters.
        made_ms: when it was collected, milliseconds since 1970.
    """

    info: SweepInfo
    records: Sequence[TrialRecord]
    config: SweepConfig
    sweep_file: str
    supernet_widths: Mapping[str, int] | None
    curves: Mapping[str, Curve]
    importance: Importance
    made_ms: int

    @property
    def members(self) -> list[TrialRecord]:
        """The front, cheapest first."""
        return front(self.records, self.info.resource)

    @property
    def limits(self) -> dict[float, float]:
        """Absolute limits by budget; none for shares while the supernet's cost is not known."""
        cost, absolute = self.info.supernet_cost, {}
        for limit in self.config.budget.limits:
            number, is_absolute = read_limit("limits has", limit, self.info.resource)
            if is_absolute or cost is not None:
                absolute[number] = absolute_limit(limit, self.info.resource, cost or 0)
        return absolute

    @property
    def given_up(self) -> list[Cell]:
        """Cells whose latest trials, by number, all failed, as many as lets a cell be given up."""
        cells: dict[Cell, list[TrialRecord]] = {}
        for record in without_controls(self.records):
            cells.setdefault(Cell(record.budget, record.strength), []).append(record)
        most = self.config.max_failures_per_cell
        latest = {
            cell: sorted(trials, key=lambda r: r.number)[-most:] for cell, trials in cells.items()
        }
        return [
            cell
            for cell, trials in latest.items()
            if len(trials) == most and all(r.status == "FAILED" for r in trials)
        ]


def collect(uri: str, info: SweepInfo) -> SweepReport:
    """Read what a report tells of a sweep.

    Raises:
        TrackingError: the store or its artifacts cannot be read.
        UserError: the sweep's settings are not as this version writes them.
    """
    from orchestrator.importance import importance_of, one_per_front

    records = records_of(uri, info)
    sweep_file = read_text(uri, info.run_id, SWEEP_FILE)
    if sweep_file is None:
        raise UserError(f"the run of sweep {info.sweep_id} holds no {SWEEP_FILE}")
    try:
        document: Any = yaml.safe_load(sweep_file)
    except yaml.YAMLError:
        document = None
    if not isinstance(document, dict):
        raise UserError(f"{SWEEP_FILE} of sweep {info.sweep_id} is no sweep file")
    config = parse_recorded(document, f"{SWEEP_FILE} of sweep {info.sweep_id}")
    draws = one_per_front(records) if config.budget.schedule == "annealed" else records
    return SweepReport(
        info=info,
        records=records,
        config=config,
        sweep_file=sweep_file,
        supernet_widths=_supernet_widths(uri, info, records),
        curves=_curves(uri, thinned(front(records, info.resource))),
        importance=importance_of(draws, config.hyperparameters),
        made_ms=time.time_ns() // 1_000_000,
    )


def log_report(uri: str, sweep_id: str) -> None:
    """Write the page to the sweep's run; a sweep does not fail because that fails."""
    from orchestrator.report_page import render

    try:
        info = find_sweep(uri, sweep_id)
        page = render(collect(uri, info))
        write_artifacts(open_client(uri), info.run_id, {REPORT: page})
    except Exception as error:
        _log.warning("%s was not logged: %s", REPORT, describe(error, uri))


def check_out(path: Path) -> None:
    """Check that a page can be written there.

    Raises:
        UserError: it cannot.
    """
    if path.is_dir():
        raise UserError(f"--out {path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: folder {path.parent} does not exist; create it first")


def write_report(report: SweepReport, path: Path) -> None:
    """Write the page to a file.

    Raises:
        UserError: the file cannot be written.
    """
    from orchestrator.report_page import render

    try:
        write_text(path, render(report))
    except OSError as error:
        raise UserError(f"--out {path} cannot be written: {error.strerror}") from None


def thinned(members: Sequence[T]) -> list[T]:
    """Return at most :data:`MOST_MEMBERS`, evenly spread, the first and last among them."""
    if len(members) <= MOST_MEMBERS:
        return list(members)
    step = (len(members) - 1) / (MOST_MEMBERS - 1)
    return [members[round(index * step)] for index in range(MOST_MEMBERS)]


def _supernet_widths(
    uri: str, info: SweepInfo, records: Sequence[TrialRecord]
) -> Mapping[str, int] | None:
    """Return what is recorded, else the widths of the supernet that was trained on."""
    text = read_text(uri, info.run_id, SUPERNET_WIDTHS)
    if text is not None:
        widths: Any = json.loads(text)
        return {str(name): int(width) for name, width in dict(widths).items()}
    return next((r.widths for r in controls_among(records) if r.control == "supernet"), None)


def _curves(uri: str, members: Sequence[TrialRecord]) -> dict[str, Curve]:
    """Read the epochs of trials, those that have any."""
    client = open_client(uri)
    try:
        found = {
            r.trial_id: _curve(client, r.run_id, r.metric, *_search_widths(uri, r.run_id))
            for r in members
            if r.run_id is not None
        }
    except TrackingError:
        raise
    except Exception as error:
        raise TrackingError(f"cannot read epochs: {describe(error, uri)}") from error
    return {trial_id: curve for trial_id, curve in found.items() if curve.epochs}


def _search_widths(uri: str, run_id: str) -> tuple[Sequence[int], Mapping[str, Sequence[int]]]:
    """Return epochs of a trial's search, and the widths after each, as far as recorded."""
    text = read_text(uri, run_id, SEARCH_WIDTHS)
    found = {} if text is None else json.loads(text)
    return found.get("epochs", ()), found.get("widths", {})


def _curve(
    client: Any,
    run_id: str,
    metric: str,
    width_epochs: Sequence[int],
    widths: Mapping[str, Sequence[int]],
) -> Curve:
    from orchestrator.report_figures import Curve

    names = ("phase", "epoch_macs_ratio", f"epoch_{metric}")
    phase, ratio, score = (
        {metric.step: metric.value for metric in client.get_metric_history(run_id, name)}
        for name in names
    )
    epochs = sorted(phase.keys() & ratio.keys() & score.keys())
    return Curve(
        epochs=epochs,
        macs_ratio=[ratio[epoch] for epoch in epochs],
        score=[score[epoch] for epoch in epochs],
        num_search=sum(phase[epoch] == 0 for epoch in epochs),
        width_epochs=width_epochs,
        widths=widths,
    )
