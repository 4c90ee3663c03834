"""The sweep's own MLflow run: found again by tag, with the front as table and picture."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.pareto import front, hypervolume
from orchestrator.records import TrialRecord
from orchestrator.tracking_data import DataInput
from orchestrator.tracking_note import NOTE_TAG, SweepFacts, sweep_note, what_was_added
from orchestrator.tracking_requests import log_batches, paged, write_artifacts
from orchestrator.tracking_server import artifact_location

_TABLE_FIELDS = (
    "trial_id",
    "budget",
    "strength",
    "macs",
    "macs_ratio",
    "num_params",
    "activation_bytes",
    "latency_ms",
    "predicted_latency_ms",
)


def find_or_create_experiment(client: Any, uri: str, name: str) -> str:
    """Return the experiment's id; one in the trash is taken out of it."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            kind = {"mlflow.experimentKind": "custom_model_development"}  # the UI's training view
            place = artifact_location(uri)
            return str(client.create_experiment(name, artifact_location=place, tags=kind))
        except MlflowException:  # another process was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def find_or_create_sweep_run(client: Any, experiment_id: str, sweep_id: str, name: str) -> str:
    """Return the run id of the sweep, set to RUNNING; of several (a lost answer) the first."""
    found = paged(
        client.search_runs,
        experiment_ids=[experiment_id],
        filter_string=f"tags.`pas.sweep_id` = '{sweep_id}' and tags.`pas.kind` = 'sweep'",
        order_by=["attributes.start_time ASC"],
    )
    if not found:
        tags = {"pas.kind": "sweep", "pas.sweep_id": sweep_id, "pas.name": name}
        return str(client.create_run(experiment_id, tags=tags, run_name=name).info.run_id)
    run_id = str(found[0].info.run_id)
    if found[0].info.status != "RUNNING":
        client.update_run(run_id, status="RUNNING")
    return run_id


class SweepRun:
    """Writes to the sweep's run. Every write may be repeated.

    Args:
        client: MLflow client.
        run_id: the sweep's run.
        name: heading of the picture.
        facts: for its description.
    """

    def __init__(self, client: Any, run_id: str, name: str, facts: SweepFacts) -> None:
        self.client, self.run_id, self.name, self._facts = client, run_id, name, facts
        self._values: dict[str, float] = {}
        self._front_steps: set[int] | None = None
        self._tags: dict[str, str] = {}

    def describe(
        self,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        artifacts: Mapping[str, str],
        data: DataInput | None = None,
    ) -> None:
        """Log what the sweep is, and what it trains on.

        MLflow refuses to change a parameter; the new value of one that may change from run to run
        (resources) becomes the tag ``pas.param.<name>``.
        """
        was = self.client.get_run(self.run_id).data
        wanted = {name: str(value)[:6000] for name, value in params.items()}
        new = {name: value for name, value in wanted.items() if name not in was.params}
        changed = {
            f"pas.param.{name}": value
            for name, value in wanted.items()
            if was.params.get(name, value) != value or f"pas.param.{name}" in was.tags
        }
        log_batches(self.client, self.run_id, [], new, dict(tags) | changed)
        write_artifacts(self.client, self.run_id, artifacts)
        if data is not None:  # there once, however often it is logged
            self.client.log_inputs(self.run_id, [data.entity()])
        self._values |= was.metrics

    def write_values(self, values: Mapping[str, float]) -> None:
        """Log single values, once each."""
        from mlflow.entities import Metric

        known = self.client.get_run(self.run_id).data.metrics
        now = time.time_ns() // 1_000_000
        metrics = [Metric(k, float(v), now, 0) for k, v in values.items() if known.get(k) != v]
        log_batches(self.client, self.run_id, metrics, {}, {})
        self._values |= values

    def write_front(
        self,
        records: Sequence[TrialRecord],
        resource: str,
        supernet_cost: float,
        limits: Sequence[float] = (),
        run_ids: Mapping[str, str] | None = None,
    ) -> None:
        """Write the description, ``front.json``, ``front.html`` and metrics.

        The metrics are, by number of finished trials, ``hypervolume`` and the best score of
        each budget. ``run_ids``: trial id -> MLflow run, of those that have one.
        """
        from mlflow.entities import Metric

        from orchestrator.plots import front_html

        page = front_html(records, resource, self.name, reference_cost=supernet_cost, limits=limits)
        table = front_table(front(records, resource))
        write_artifacts(self.client, self.run_id, {"front.json": table, "front.html": page})
        values, step = _front_metrics(records, resource, supernet_cost)
        if self._front_steps is None:
            history = self.client.get_metric_history(self.run_id, "hypervolume")
            self._front_steps = {metric.step for metric in history}
        metrics: list[Any] = []
        if step not in self._front_steps:
            now = time.time_ns() // 1_000_000
            metrics = [Metric(name, value, now, step) for name, value in values.items()]
        tags = {
            "pas.resource": resource,
            "pas.supernet_cost": repr(supernet_cost),
            # The table view of MLflow's UI; log_table would append to the rows of last time.
            "mlflow.loggedArtifacts": json.dumps([{"path": "front.json", "type": "table"}]),
        }
        tags |= self._note(records, run_ids or {})
        changed = {name: value for name, value in tags.items() if self._tags.get(name) != value}
        known, self._front_steps = self._front_steps, None  # unknown, should the request fail
        log_batches(self.client, self.run_id, metrics, {}, changed)
        self._front_steps = known | {step}
        self._tags |= changed

    def _note(self, records: Sequence[TrialRecord], run_ids: Mapping[str, str]) -> dict[str, str]:
        """Return the description; what a person has added to the one that is there stays."""
        facts = dataclasses.replace(self._facts, figures=self._values, run_ids=run_ids)
        before = self.client.get_run(self.run_id).data.tags.get(NOTE_TAG, "")
        note = sweep_note(facts, records, what_was_added(before))
        return {} if note == before else {NOTE_TAG: note}

    def close(self, status: str) -> None:
        """End the run: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(self.run_id, status)


def front_table(members: Sequence[TrialRecord]) -> str:
    """Return a front as MLflow's table format: JSON with ``columns`` and ``data`` (rows)."""
    metric = members[0].metric if members else "accuracy"
    rows = [
        [
            *(getattr(member, name) for name in _TABLE_FIELDS),
            *(member.score, member.test_score, json.dumps(dict(member.hyperparameters))),
        ]
        for member in members
    ]
    columns = [*_TABLE_FIELDS, metric, f"test_{metric}", "hyperparameters"]
    return json.dumps({"columns": columns, "data": rows}, indent=1)


def _front_metrics(
    records: Sequence[TrialRecord], resource: str, supernet_cost: float
) -> tuple[dict[str, float], int]:
    finished = [r for r in records if r.status == "FINISHED" and r.control is None]
    values = {"hypervolume": hypervolume(finished, resource, supernet_cost)}
    for record in finished:
        name = f"best_{record.metric}/b{record.budget:g}".replace("+", "")  # MLflow refuses it
        if record.score is not None and record.score == record.score:
            better = max if record.higher_is_better else min
            values[name] = better(values.get(name, record.score), record.score)
    return values, len(finished)
