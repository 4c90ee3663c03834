"""Tracking of one sweep in MLflow: queued by the driver, written by one background thread.

Training never waits for the tracking store. What cannot be written now is kept and tried again;
only :meth:`SweepTracker.close` says what could not be delivered. What is written, and how it
stays correct when repeated, is :mod:`orchestrator.tracking_writer`'s business.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.pareto import front, hypervolume
from orchestrator.plots import front_html
from orchestrator.records import TrialRecord
from orchestrator.tables import best_of
from orchestrator.tracking_server import (
    TrackingError,
    artifact_location,
    describe,
    is_temporary,
    open_client,
    paged,
)
from orchestrator.tracking_writer import SweepWriter, TrialWrites, log_batches, write_artifacts

__all__ = ["SweepTracker", "TrackingError"]

_GATHER_S = 0.5
_LONGEST_WAIT_S = 10.0


class SweepTracker:
    """Writes one sweep's run and its trials' runs; all methods return at once.

    Args:
        uri: tracking store.
        sweep_id: name and hash; the sweep's run is found again by it.
        name: as in the sweep file.
        experiment: MLflow experiment of all runs.
        resource: what the budget limits.
        params: logged once on the sweep's run.
        tags: on the sweep's run.
        artifacts: file name -> text, on the sweep's run.
    """

    def __init__(
        self,
        *,
        uri: str,
        sweep_id: str,
        name: str,
        experiment: str,
        resource: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        artifacts: Mapping[str, str],
    ) -> None:
        self._uri, self._sweep_id, self._name = uri, sweep_id, name
        self._experiment, self._resource = experiment, resource
        self._params = {key: str(value) for key, value in params.items()}
        self._tags, self._artifacts = dict(tags), dict(artifacts)
        self._trials: dict[str, TrialWrites] = {}
        self._front: tuple[list[TrialRecord], str, int] | None = None
        self._summary: dict[str, float] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._problem: str | None = None
        self._records: dict[str, TrialRecord] = {}
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)

    def start(self) -> SweepTracker:
        """Open the store, find or create the sweep's run, and start writing.

        Raises:
            TrackingError: the store cannot be opened or written.
        """
        client = open_client(self._uri)
        try:
            experiment_id = _find_or_create_experiment(client, self._experiment, self._uri)
            run_id = self._find_or_create_run(client, experiment_id)
            self._writer = SweepWriter(
                client,
                experiment_id=experiment_id,
                sweep_run_id=run_id,
                sweep_id=self._sweep_id,
                resource=self._resource,
            )
        except TrackingError:
            raise
        except Exception as error:
            sentence = describe(error, self._uri)
            raise TrackingError(f"cannot write to the tracking store: {sentence}") from error
        self._thread.start()
        return self

    def trial_started(self, record: TrialRecord) -> None:
        """Open the trial's run, or reopen it."""
        self._queue(record)

    def log_epoch(self, trial_id: str, metrics: Mapping[str, float], step: int) -> None:
        """Log one epoch of a trial that has been started; a step logged before is left out."""
        now = _now_ms()
        epochs = [(name, value, step, now) for name, value in metrics.items()]
        self._queue(self._records[trial_id], epochs=epochs)

    def trial_finished(self, record: TrialRecord, artifacts: Mapping[str, str]) -> None:
        """Write a trial's results and end its run; doing it again changes nothing."""
        self._queue(record, artifacts=dict(artifacts))

    def log_summary(self, metrics: Mapping[str, float]) -> None:
        """Log metrics of the sweep's own run, such as the supernet's accuracy."""
        with self._changed:
            self._summary.update(metrics)
            self._changed.notify()

    def update_front(
        self, records: Sequence[TrialRecord], resource: str, supernet_cost: int
    ) -> None:
        """Redraw the front from all ended trials; of several calls in a row the last counts."""
        with self._changed:
            self._front = (list(records), resource, supernet_cost)
            self._changed.notify()

    def close(self, status: str, timeout_s: float = 60.0) -> None:
        """Write what is left, end every run truthfully, and stop.

        Raises:
            TrackingError: the store did not take everything within ``timeout_s`` seconds.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        if self._thread.is_alive() or self._problem is not None:
            raise TrackingError(
                f"the tracking store did not take everything ({self._problem or 'no answer'}); "
                "results are kept, run the same command again to deliver them"
            )
        try:
            self._writer.close_children()
            self._writer.close_sweep(status)
        except Exception as error:
            raise TrackingError(f"cannot close the runs: {describe(error, self._uri)}") from error

    def _queue(
        self,
        record: TrialRecord,
        *,
        epochs: Sequence[tuple[str, float, int, int]] = (),
        artifacts: Mapping[str, str] | None = None,
    ) -> None:
        now = _now_ms()
        writes = TrialWrites(record, now, now, list(epochs), dict(artifacts or {}))
        with self._changed:
            self._records[record.trial_id] = record
            before = self._trials.get(record.trial_id)
            self._trials[record.trial_id] = before.followed_by(writes) if before else writes
            self._changed.notify()

    def _run(self) -> None:
        wait = 0.0
        while True:
            with self._changed:
                while not (self._trials or self._front or self._summary or self._closing):
                    self._changed.wait()
                self._changed.wait(_LONGEST_WAIT_S if wait else _GATHER_S)
                trials, self._trials = self._trials, {}
                drawn, self._front = self._front, None
                summary, self._summary = self._summary, {}
                closing = self._closing
            try:
                self._write(trials, drawn, summary)
            except Exception as error:  # keep everything: a later try leaves out what arrived
                self._problem = describe(error, self._uri)
                self._keep(trials, drawn, summary)
                if not is_temporary(error):
                    return
                wait = min(_LONGEST_WAIT_S, 2 * wait + 0.25)
                time.sleep(wait)
                continue
            self._problem, wait = None, 0.0
            with self._changed:
                empty = not (self._trials or self._front or self._summary)
            if closing and empty:
                return

    def _write(
        self,
        trials: Mapping[str, TrialWrites],
        drawn: tuple[list[TrialRecord], str, int] | None,
        summary: Mapping[str, float],
    ) -> None:
        for writes in trials.values():
            self._writer.write_trial(writes)
        if summary:
            self._log_sweep_metrics(summary, step=0)
        if drawn is not None:
            self._write_front(*drawn)

    def _keep(
        self,
        trials: Mapping[str, TrialWrites],
        drawn: tuple[list[TrialRecord], str, int] | None,
        summary: Mapping[str, float],
    ) -> None:
        """Put back what could not be written, before what has come since."""
        with self._changed:
            for trial_id, older in trials.items():
                newer = self._trials.get(trial_id)
                self._trials[trial_id] = older.followed_by(newer) if newer else older
            self._front = self._front or drawn
            self._summary = {**summary, **self._summary}

    def _write_front(self, records: list[TrialRecord], resource: str, supernet_cost: int) -> None:
        finished = [r for r in records if r.status == "FINISHED"]
        if not finished:
            return
        metrics = {"hypervolume": hypervolume(records, resource, supernet_cost)}
        for budget in {r.budget for r in finished}:
            best = best_of([r for r in finished if r.budget == budget])
            if best is not None and best.accuracy is not None:
                metrics[f"best_accuracy_b{budget:g}"] = best.accuracy
        self._log_sweep_metrics(metrics, step=len(finished))
        title = f"{self._sweep_id}: accuracy against {resource}"
        members = [r.to_json() | {"on_front": True} for r in front(records, resource)]
        artifacts = {
            "front.json": json.dumps(_as_table(members), indent=1),
            "front.html": front_html(records, resource, title),
        }
        write_artifacts(self._writer.client, self._writer.sweep_run_id, artifacts)
        cost = {"pas.supernet_cost": str(supernet_cost)}
        log_batches(self._writer.client, self._writer.sweep_run_id, [], {}, cost)

    def _log_sweep_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = _now_ms()
        logged = [Metric(name, value, now, step) for name, value in metrics.items()]
        log_batches(self._writer.client, self._writer.sweep_run_id, logged, {}, {})

    def _find_or_create_run(self, client: Any, experiment_id: str) -> str:
        """Return the sweep's run, RUNNING; of one sweep there is only ever one."""
        found = paged(
            client.search_runs,
            experiment_ids=[experiment_id],
            filter_string=(
                f"tags.`pas.sweep_id` = '{self._sweep_id}' and tags.`pas.kind` = 'sweep'"
            ),
            max_results=1000,
        )
        tags = self._tags | {
            "pas.kind": "sweep",
            "pas.sweep_id": self._sweep_id,
            "pas.name": self._name,
            "pas.resource": self._resource,
        }
        if found:
            run = found[0]
            client.update_run(run.info.run_id, status="RUNNING")
        else:
            run = client.create_run(experiment_id, tags=tags, run_name=self._sweep_id)
        missing = {k: v for k, v in self._params.items() if k not in run.data.params}
        log_batches(client, run.info.run_id, [], missing, tags)
        write_artifacts(client, run.info.run_id, self._artifacts)
        return str(run.info.run_id)


def _find_or_create_experiment(client: Any, name: str, uri: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return str(client.create_experiment(name, artifact_location=artifact_location(uri)))
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"MLflow experiment {name!r} has been deleted; restore it or rename the sweep"
        )
    return str(experiment.experiment_id)


def _as_table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return rows in the layout that the MLflow UI shows as a table."""
    columns = [c for c in (rows[0] if rows else {}) if c not in ("widths", "hyperparameters")]
    return {"columns": columns, "data": [[row[c] for c in columns] for row in rows]}


def _now_ms() -> int:
    return int(time.time() * 1000)
