"""What a trial's run holds of its record; :mod:`orchestrator.tracking_reader` reads it back.

Tags of a trial's run: ``pas.kind`` (trial), ``pas.control`` (of controls alone, which),
``pas.sweep_id``, ``pas.trial_id``, ``pas.budget``, ``pas.strength``, ``pas.number``,
``pas.hyperparameters`` (JSON), ``pas.micro_batches`` (where more than 1), ``pas.status`` (ours;
MLflow has no PRUNED), ``pas.error``, ``pas.widths`` (JSON, or ``widths.json``: see the artifact),
``pas.content_hash`` (of the package), ``pas.on_front`` (true or false, of those that were on the
front when a sweep ended).
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from orchestrator.records import TrialRecord
from orchestrator.tracking_requests import MAX_TAG_CHARS

FRONT_TAG = "pas.on_front"

TIMES = (
    "search_seconds",
    "finetune_seconds",
    "control_seconds",
    "cpu_seconds",
    "gpu_seconds",
    "price",
)
"""What a trial took, as floats."""

_RESULTS = (
    "macs",
    "macs_ratio",
    "num_params",
    "activation_bytes",
    "latency_ms",
    "predicted_latency_ms",
    "training_macs",
    "saved_macs",
    *TIMES,
)

_OF_EPOCHS = ("loss", "phase")
"""Metrics of each epoch, beside those whose names begin with ``epoch_``."""


def further_metrics(metrics: Mapping[str, float], metric: str) -> dict[str, float]:
    """Return the figures of the task beside its scores, among the metrics of a trial's run.

    Args:
        metrics: of the run.
        metric: the sweep's, which the scores stand under.
    """
    known = {*_RESULTS, *_OF_EPOCHS, metric, f"test_{metric}"}
    return {n: v for n, v in metrics.items() if n not in known and not n.startswith("epoch_")}


def trial_params(record: TrialRecord, resource: str) -> dict[str, str]:
    """Return what was set before the trial started: never changes."""
    fixed = {"budget": repr(record.budget), "resource": resource}
    if record.control is not None:
        return fixed | {"control": record.control}
    fixed |= {"strength": repr(record.strength), "number": str(record.number)}
    return fixed | {name: str(value) for name, value in record.hyperparameters.items()}


def trial_tags(record: TrialRecord, sweep_id: str) -> dict[str, str]:
    """Return what the run is found and read back by."""
    tags = {
        "pas.kind": "trial",
        "pas.sweep_id": sweep_id,
        "pas.trial_id": record.trial_id,
        "pas.budget": repr(record.budget),
        "pas.strength": repr(record.strength),
        "pas.number": str(record.number),
        "pas.status": record.status,
    }
    if record.control is not None:
        tags["pas.control"] = record.control
    if record.hyperparameters:
        tags["pas.hyperparameters"] = json.dumps(dict(record.hyperparameters))
    if record.micro_batches > 1:
        tags["pas.micro_batches"] = str(record.micro_batches)
    if record.error is not None:
        tags["pas.error"] = record.error[:MAX_TAG_CHARS]
    if record.content_hash is not None:
        tags["pas.content_hash"] = record.content_hash
    if record.widths is not None:
        text = json.dumps(dict(record.widths), separators=(",", ":"))
        tags["pas.widths"] = text if len(text) <= MAX_TAG_CHARS else "widths.json"
    return tags


def trial_results(record: TrialRecord) -> dict[str, float]:
    """Return the final metrics of an ended trial, those it has."""
    if record.status == "RUNNING":
        return {}
    scores = {record.metric: record.score, f"test_{record.metric}": record.test_score}
    values = {**scores, **{name: getattr(record, name) for name in _RESULTS}, **record.metrics}
    return {name: float(value) for name, value in values.items() if value is not None}


def trial_files(record: TrialRecord) -> dict[str, str]:
    """Return file name -> text."""
    if record.widths is None:
        return {}
    return {"widths.json": json.dumps(dict(record.widths), indent=1)}
