"""Reading sweeps back from MLflow: runs alone are enough to rebuild every record.

What a trial's run holds is listed in :mod:`orchestrator.tracking_format`, and written by
:mod:`orchestrator.tracking_writer`.
"""

from __future__ import annotations

import difflib
import json
import math
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.accounting import TOTALS
from orchestrator.errors import UserError
from orchestrator.pareto import mark_front
from orchestrator.records import TrialRecord
from orchestrator.tracking_format import TIMES, further_metrics
from orchestrator.tracking_requests import paged
from orchestrator.tracking_server import (
    TrackingError,
    check_server,
    describe,
    open_client,
    sqlite_path,
)
from orchestrator.tracking_sqlite import read_runs

__all__ = [
    "SweepInfo",
    "TrackingError",
    "UnknownSweepError",
    "check_server",
    "child_runs",
    "find_sweep",
    "list_sweeps",
    "read_text",
    "records_of",
    "run_status",
]

STATUSES = ("RUNNING", "FINISHED", "FAILED", "PRUNED", "KILLED")
_INTEGERS = ("macs", "num_params", "activation_bytes", "training_macs", "saved_macs")
_FLOATS = ("macs_ratio", "latency_ms", "predicted_latency_ms", *TIMES)


class UnknownSweepError(UserError):
    """No sweep of that id or name in the tracking store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepInfo:
    """One sweep as the tracking store knows it.

    Attributes:
        sweep_id: name and hash.
        name: as in the sweep file.
        run_id: MLflow run of the sweep, parent of its trials' runs.
        experiment_id: MLflow experiment.
        resource: what the budget limits, one of :data:`search_space.RESOURCES`.
        status: RUNNING, FINISHED, FAILED or KILLED.
        start_time_ms: when it first started, milliseconds since 1970.
        end_time_ms: when it last ended; None while it runs.
        supernet_cost: cost of the supernet in ``resource``, once a front was written.
        supernet_macs, supernet_num_params: of the supernet in deploy form.
        metric, higher_is_better: what its networks are compared by.
        supernet_score, supernet_test_score: that of the supernet, once it has been trained.
        totals: what it used, see :data:`orchestrator.accounting.TOTALS`.
        currency: of its price, if prices are given.
    """

    sweep_id: str
    name: str
    run_id: str
    experiment_id: str
    resource: str
    status: str
    start_time_ms: int
    end_time_ms: int | None = None
    supernet_macs: int | None = None
    supernet_num_params: int | None = None
    supernet_cost: float | None = None
    metric: str = "accuracy"
    higher_is_better: bool = True
    supernet_score: float | None = None
    supernet_test_score: float | None = None
    totals: Mapping[str, float] = field(default_factory=dict)
    currency: str = ""


def list_sweeps(uri: str) -> list[SweepInfo]:
    """Return all sweeps of a tracking store, the latest first.

    Raises:
        TrackingError: the store does not answer.
    """
    if _is_missing(uri):
        return []
    runs = _read_locally(uri, "pas.kind", "sweep")
    if runs is None:
        check_server(uri)
        client = open_client(uri)
        try:
            experiments = paged(client.search_experiments)
            runs = paged(
                client.search_runs,
                experiment_ids=[experiment.experiment_id for experiment in experiments],
                filter_string="tags.`pas.kind` = 'sweep'",
            )
        except Exception as error:
            message = f"cannot read the tracking store: {describe(error, uri)}"
            raise TrackingError(message) from error
    return sorted(map(_sweep_info, runs), key=lambda info: info.start_time_ms, reverse=True)


def find_sweep(uri: str, sweep: str) -> SweepInfo:
    """Return the sweep with this id, else the latest sweep of this name.

    Raises:
        UnknownSweepError: there is none; the message names close ones.
        TrackingError: the store does not answer.
    """
    sweeps = list_sweeps(uri)
    for matches in (
        [info for info in sweeps if info.sweep_id == sweep],
        [info for info in sweeps if info.name == sweep],
    ):
        if matches:
            return matches[0]
    names = list(dict.fromkeys(n for info in sweeps for n in (info.name, info.sweep_id)))
    close = difflib.get_close_matches(sweep, names, n=3) or list(
        dict.fromkeys(info.name for info in sweeps)
    )
    hint = f"did you mean {' or '.join(close[:3])}?" if close else "no sweep has been run here yet."
    raise UnknownSweepError(f"there is no sweep {sweep!r}: {hint}")


def records_of(uri: str, info: SweepInfo) -> list[TrialRecord]:
    """Return all trials of a sweep, sorted by budget, strength and number, the front marked.

    Controls come last.

    Args:
        uri: tracking store.
        info: the sweep, as it was found there.

    Raises:
        TrackingError: the store does not answer.
    """
    try:
        runs = _read_locally(uri, "mlflow.parentRunId", info.run_id)
        if runs is None:
            chosen = child_runs(open_client(uri), info.experiment_id, info.run_id)
        else:
            chosen = _one_each(sorted(runs, key=lambda run: run.info.start_time))
        records = [_record(uri, run, info) for run in chosen.values()]
    except Exception as error:
        raise TrackingError(f"cannot read sweep {info.sweep_id}: {describe(error, uri)}") from error
    records.sort(key=lambda r: (r.control or "", r.budget, r.strength, r.number))
    return mark_front(records, info.resource)


def child_runs(client: Any, experiment_id: str, sweep_run_id: str) -> dict[str, Any]:
    """Return trial id -> MLflow run, one each; of several the finished or newest one counts."""
    runs = paged(
        client.search_runs,
        experiment_ids=[experiment_id],
        filter_string=f"tags.`mlflow.parentRunId` = '{sweep_run_id}'",
        order_by=["attributes.start_time ASC"],
    )
    return _one_each(runs)


def _one_each(runs: Iterable[Any]) -> dict[str, Any]:
    """Choose among runs, the earliest first."""
    chosen: dict[str, Any] = {}
    for run in runs:
        trial_id = run.data.tags.get("pas.trial_id")
        if trial_id is None:
            continue
        other = chosen.get(trial_id)
        if other is None or run_status(run) == "FINISHED" or run_status(other) != "FINISHED":
            chosen[trial_id] = run
    return chosen


def run_status(run: Any) -> str:
    """Return our own status of a trial's run; MLflow's where the tag is missing."""
    status = str(run.data.tags.get("pas.status", run.info.status))
    return status if status in STATUSES else "RUNNING"


def read_text(uri: str, run_id: str, name: str) -> str | None:
    """Return a text among a run's artifacts, ``None`` if it has none of this name.

    Raises:
        TrackingError: the artifacts cannot be read.
    """
    client = open_client(uri)
    try:
        if name not in {item.path for item in client.list_artifacts(run_id)}:
            return None
        with tempfile.TemporaryDirectory() as folder:
            return Path(client.download_artifacts(run_id, name, folder)).read_text("utf-8")
    except Exception as error:
        raise TrackingError(f"cannot read {name} of a run: {describe(error, uri)}") from error


def _read_locally(uri: str, tag: str, value: str) -> list[Any] | None:
    """Return the runs with a tag, if the store is a database that can be read without MLflow."""
    database = sqlite_path(uri)
    return None if database is None else read_runs(database, tag, value)


def _is_missing(uri: str) -> bool:
    """Looking into a database that is not there must not create it."""
    database = sqlite_path(uri)
    return database is not None and not Path(database).exists()


def _sweep_info(run: Any) -> SweepInfo:
    tags, params = run.data.tags, run.data.params
    counts = {
        name: int(params[name])
        for name in ("supernet_macs", "supernet_num_params")
        if params.get(name, "").isdecimal()
    }
    cost, metric = tags.get("pas.supernet_cost"), tags.get("pas.metric", "accuracy")
    return SweepInfo(
        sweep_id=tags["pas.sweep_id"],
        name=tags.get("pas.name", tags["pas.sweep_id"]),
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        resource=tags.get("pas.resource", "macs"),
        status=run.info.status,
        start_time_ms=run.info.start_time,
        end_time_ms=None if run.info.status == "RUNNING" else run.info.end_time,
        **counts,
        supernet_cost=float(cost) if cost else None,
        metric=metric,
        higher_is_better=tags.get("pas.lower_is_better") != "true",
        supernet_score=run.data.metrics.get(f"supernet_{metric}"),
        supernet_test_score=run.data.metrics.get(f"supernet_test_{metric}"),
        totals={name: value for name, value in run.data.metrics.items() if name in TOTALS},
        currency=tags.get("pas.currency", ""),
    )


def _record(uri: str, run: Any, info: SweepInfo) -> TrialRecord:
    tags, metrics = run.data.tags, run.data.metrics
    status: Any = run_status(run)
    results: dict[str, Any] = {}
    if status != "RUNNING":
        results = {name: metrics[name] for name in _FLOATS if name in metrics}
        results |= {name: _integer(metrics[name]) for name in _INTEGERS if name in metrics}
        results["score"] = metrics.get(info.metric)
        results["test_score"] = metrics.get(f"test_{info.metric}")
        results["metrics"] = further_metrics(metrics, info.metric)
    return TrialRecord(
        trial_id=tags["pas.trial_id"],
        sweep_id=tags["pas.sweep_id"],
        status=status,
        budget=float(tags["pas.budget"]),
        strength=float(tags["pas.strength"]),
        number=int(tags["pas.number"]),
        control=tags.get("pas.control"),
        hyperparameters=json.loads(tags.get("pas.hyperparameters", "{}")),
        micro_batches=int(tags.get("pas.micro_batches", 1)),
        widths=_widths(uri, run.info.run_id, tags),
        content_hash=tags.get("pas.content_hash"),
        error=tags.get("pas.error"),
        run_id=run.info.run_id,
        metric=info.metric,
        higher_is_better=info.higher_is_better,
        **results,
    )


def _integer(value: float) -> int | None:
    return round(value) if math.isfinite(value) else None


def _widths(uri: str, run_id: str, tags: Mapping[str, str]) -> dict[str, int] | None:
    """Widths are a tag; those too many for a tag are only in the artifact."""
    text = tags.get("pas.widths")
    if text == "widths.json":
        text = read_text(uri, run_id, text)
    return json.loads(text) if text else None
