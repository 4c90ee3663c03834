"""Writing one sweep to MLflow, call by call; :mod:`orchestrator.tracking` decides when.

Every write may be repeated after a failure or a crash and leaves the same state: runs are found
again by tag, parameters and final metrics are compared with what is there, epochs that are there
are left out, and MLflow itself drops a metric equal in key, step, value and time.

What a run holds of a record is in :mod:`orchestrator.tracking_format`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.pareto import front
from orchestrator.records import TrialRecord
from orchestrator.tracking_data import DataInput
from orchestrator.tracking_format import (
    FRONT_TAG,
    trial_files,
    trial_params,
    trial_results,
    trial_tags,
)
from orchestrator.tracking_front import log_front_models
from orchestrator.tracking_names import trial_name
from orchestrator.tracking_reader import child_runs, run_status
from orchestrator.tracking_requests import log_batches, paged, write_artifacts

_NAME_TAG = "mlflow.runName"  # MLflow renames the run that gets it
_MLFLOW_STATUS = {"PRUNED": "FINISHED"}  # the others have the same name


@dataclass(slots=True)
class TrialWrites:
    """What is to be written of one trial. Times are milliseconds since 1970.

    Attributes:
        record: the newest state of the trial.
        started_ms: when it started.
        changed_ms: when ``record`` was handed over; the end, if it says so.
        epochs: (name, value, step, time).
        artifacts: file name -> content.
    """

    record: TrialRecord
    started_ms: int
    changed_ms: int
    epochs: list[tuple[str, float, int, int]] = field(default_factory=list)
    artifacts: dict[str, str | bytes] = field(default_factory=dict)

    def followed_by(self, newer: TrialWrites) -> TrialWrites:
        """Return both together."""
        return TrialWrites(
            newer.record,
            self.started_ms,
            newer.changed_ms,
            self.epochs + newer.epochs,
            self.artifacts | newer.artifacts,
        )


@dataclass(slots=True)
class _Run:
    """A trial's run as known here: MLflow's status; ``steps`` is None until read from the store."""

    run_id: str
    status: str
    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    has_data: bool = False
    steps: dict[str, set[int]] | None = None


class SweepWriter:
    """The sweep's run and its trials' runs. Not thread-safe: one thread at a time.

    Args:
        client: MLflow client.
        experiment_id: experiment of all runs.
        sweep_run_id: parent run.
        sweep_id: the sweep's name and hash.
        resource: logged with each trial.
        limits: budget -> the same in units of the resource, for names.
        data: input of each run.
    """

    def __init__(
        self,
        client: Any,
        *,
        experiment_id: str,
        sweep_run_id: str,
        sweep_id: str,
        resource: str,
        limits: Mapping[float, float],
        data: DataInput | None,
    ) -> None:
        self.client = client
        self.experiment_id = experiment_id
        self.sweep_run_id = sweep_run_id
        self.sweep_id = sweep_id
        self.resource = resource
        self._limits, self._data = limits, data
        self._unsure: set[str] = set()
        self._runs = {
            trial_id: _known(run)
            for trial_id, run in child_runs(client, experiment_id, sweep_run_id).items()
        }

    @property
    def run_ids(self) -> dict[str, str]:
        """Trial id -> MLflow run id."""
        return {trial_id: run.run_id for trial_id, run in self._runs.copy().items()}

    def write_trial(self, writes: TrialWrites) -> None:
        """Bring a trial's run to the state of ``writes.record``, creating it if need be."""
        record = writes.record
        run = self._find_or_create(writes)
        status = _MLFLOW_STATUS.get(record.status, record.status)
        if run.status != status and status == "RUNNING":
            self.client.update_run(run.run_id, status=status)
        metrics = self._new_metrics(run, writes)
        params = {
            k: v for k, v in trial_params(record, self.resource).items() if k not in run.params
        }
        tags = {k: v for k, v in self._tags(run, record).items() if run.tags.get(k) != v}
        if self._data is not None and not run.has_data:
            self.client.log_inputs(run.run_id, [self._data.entity()])
            run.has_data = True
        if run.status != status or metrics or tags:  # else all this was written before
            write_artifacts(self.client, run.run_id, {**writes.artifacts, **trial_files(record)})
        if record.error is None and "pas.error" in run.tags:
            self.client.delete_tag(run.run_id, "pas.error")
            del run.tags["pas.error"]
        log_batches(self.client, run.run_id, metrics, params, tags)
        if status not in (run.status, "RUNNING"):
            self._terminate(run.run_id, status, writes.changed_ms)
        _remember(run, status, metrics, params, tags)

    def write_front(self, records: Sequence[TrialRecord]) -> None:
        """Mark the trials on the front, and make their networks logged models."""
        known = front(records, self.resource)
        members = {r.trial_id: self._runs[r.trial_id] for r in known if r.trial_id in self._runs}
        for trial_id, run in self._runs.items():
            on_front = "true" if trial_id in members else "false"
            if run.tags.get(FRONT_TAG, "false") != on_front:
                self.client.set_tag(run.run_id, FRONT_TAG, on_front)
                run.tags[FRONT_TAG] = on_front
        run_ids = {trial_id: run.run_id for trial_id, run in members.items()}
        log_front_models(self.client, self.experiment_id, self.sweep_id, run_ids)

    def close_children(self) -> None:
        """End every run of the sweep still RUNNING: by its own status if written, else KILLED."""
        running = paged(
            self.client.search_runs,
            experiment_ids=[self.experiment_id],
            filter_string=(
                f"tags.`mlflow.parentRunId` = '{self.sweep_run_id}' "
                "and attributes.status = 'RUNNING'"
            ),
        )
        for run in running:
            status = run_status(run)
            if status == "RUNNING":
                status = "KILLED"
                self.client.set_tag(run.info.run_id, "pas.status", status)
            self._terminate(run.info.run_id, status)

    def _terminate(self, run_id: str, status: str, end_ms: int | None = None) -> None:
        self.client.set_terminated(run_id, _MLFLOW_STATUS.get(status, status), end_ms)

    def _find_or_create(self, writes: TrialWrites) -> _Run:
        record = writes.record
        if record.trial_id in self._unsure:
            found = child_runs(self.client, self.experiment_id, self.sweep_run_id)
            if record.trial_id in found:
                self._runs[record.trial_id] = _known(found[record.trial_id])
            self._unsure.discard(record.trial_id)
        run = self._runs.get(record.trial_id)
        if run is not None and self._is_another_try(run, record):
            # Another start with other hyper-parameters: its curves must not be mixed.
            self.client.delete_run(run.run_id)
            del self._runs[record.trial_id]
            run = None
        return run or self._create(writes)

    def _create(self, writes: TrialWrites) -> _Run:
        record = writes.record
        tags = trial_tags(record, self.sweep_id) | {"pas.status": "RUNNING"}
        tags[_NAME_TAG] = self._name(dataclasses.replace(record, status="RUNNING"))
        self._unsure.add(record.trial_id)  # an answer may get lost on its way back
        created = self.client.create_run(
            self.experiment_id,
            start_time=writes.started_ms,
            tags=tags | {"mlflow.parentRunId": self.sweep_run_id},
            run_name=tags[_NAME_TAG],
        )
        self._unsure.discard(record.trial_id)
        run = _Run(created.info.run_id, "RUNNING", tags, steps={})
        self._runs[record.trial_id] = run
        return run

    def _tags(self, run: _Run, record: TrialRecord) -> dict[str, str]:
        """Return the tags of a run, its name among them unless somebody gave it another one."""
        tags = trial_tags(record, self.sweep_id)
        bare = self._name(dataclasses.replace(record, status="RUNNING"))
        if run.tags.get(_NAME_TAG, bare).startswith(bare):
            tags[_NAME_TAG] = self._name(record)
        return tags

    def _name(self, record: TrialRecord) -> str:
        return trial_name(record, self.resource, self._limits.get(record.budget))

    def _is_another_try(self, run: _Run, record: TrialRecord) -> bool:
        wanted = {name: str(value) for name, value in record.hyperparameters.items()}
        return any(run.params.get(name, value) != value for name, value in wanted.items())

    def _new_metrics(self, run: _Run, writes: TrialWrites) -> list[Any]:
        """Return the epochs and results not there yet.

        Results come one step after the last epoch, so that they are the value MLflow shows.
        """
        from mlflow.entities import Metric

        results = trial_results(writes.record)
        latest = run.latest | {name: value for name, value, _, _ in writes.epochs}
        results = {k: v for k, v in results.items() if not _same(latest.get(k), v)}
        if not writes.epochs and not results:
            return []
        if run.steps is None:
            run.steps = self._read_steps(run)
        metrics: dict[tuple[str, int], Any] = {}
        for name, value, step, time_ms in writes.epochs:
            if step not in run.steps.get(name, ()):
                metrics.setdefault((name, step), Metric(name, value, time_ms, step))
        steps = [step for _, step in metrics] + [s for known in run.steps.values() for s in known]
        last = max(steps, default=-1) + 1
        for name, value in results.items():
            metrics[name, last] = Metric(name, value, writes.changed_ms, last)
        return list(metrics.values())

    def _read_steps(self, run: _Run) -> dict[str, set[int]]:
        return {
            name: {metric.step for metric in self.client.get_metric_history(run.run_id, name)}
            for name in run.latest
        }


def _known(run: Any) -> _Run:
    data = run.data
    return _Run(
        run.info.run_id,
        run.info.status,
        dict(data.tags),
        dict(data.params),
        dict(data.metrics),
        bool(run.inputs and run.inputs.dataset_inputs),
    )


def _same(old: float | None, new: float) -> bool:
    return old is not None and (old == new or (old != old and new != new))  # noqa: PLR0124


def _remember(
    run: _Run,
    status: str,
    metrics: Iterable[Any],
    params: Mapping[str, str],
    tags: Mapping[str, str],
) -> None:
    run.status = status
    run.params |= params
    run.tags |= tags
    for metric in metrics:
        run.latest[metric.key] = metric.value
        if run.steps is not None:
            run.steps.setdefault(metric.key, set()).add(metric.step)
    if status != "RUNNING":
        run.steps = None  # read again should it ever be needed: thousands of trials add up
