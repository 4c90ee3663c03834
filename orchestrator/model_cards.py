"""What a promoted version says of itself in the registry: tags, and a description to read."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.gates import GateResult
from deploy.measuring import Measurements
from orchestrator.records import TrialRecord
from orchestrator.scores import count_text, figure, label
from orchestrator.tracking_names import trial_name
from orchestrator.tracking_note import widths_text

PARITY_ERROR_TAG = "pas.parity_error"
"""Tag of a version: error of the deploy form, see :meth:`pas_trainer.Task.error`."""
DATA_TAG = "pas.data"
"""Tag of a version: fingerprint of the images that it was trained and chosen on."""
GATE_TAG = "pas.gate."
"""Begins the tag that says what a gate found; its name follows."""


def version_tags(record: TrialRecord, resource: str, fingerprint: str) -> dict[str, str]:
    """Return the tags of a version that say where it comes from; scores under their metric's name.

    Args:
        record: the trial's.
        resource: what its sweep limits.
        fingerprint: of the sweep's data.
    """
    tags = {
        "pas.sweep_id": record.sweep_id,
        "pas.trial_id": record.trial_id,
        "pas.run_id": record.run_id,
        "pas.budget": f"{record.budget:g}",
        "pas.strength": f"{record.strength:g}",
        "pas.macs": record.macs,
        "pas.macs_ratio": record.macs_ratio,
        "pas.num_params": record.num_params,
        "pas.resource": resource,
        "pas.cost": record.cost(resource),
        "pas.latency_ms": record.latency_ms,
        f"pas.{record.metric}": record.score,
        f"pas.test_{record.metric}": record.test_score,
        DATA_TAG: fingerprint,
    }
    return {name: str(value) for name, value in tags.items()}


def gate_tags(gates: Sequence[GateResult], measured: Measurements) -> dict[str, str]:
    """Return the tags of a version that say what the gates found, and its error of parity."""
    said = {GATE_TAG + gate.name: f"{_verdict(gate)}: {gate.sentence}" for gate in gates}
    return {PARITY_ERROR_TAG: f"{measured.training_error:.3g}", **said}


def description(
    record: TrialRecord,
    resource: str,
    data: str,
    gates: Sequence[GateResult],
    measured: Measurements,
    limit: float | None = None,
) -> str:
    """Return Markdown for the version's page, its first line for the list of versions.

    Arguments as above; ``data``: the data set's name, ``limit``: the trial's budget in units of
    the resource.
    """
    metric = record.metric
    rows = {
        "sweep, trial": f"`{record.sweep_id}`, `{record.trial_id}`",
        "data": f"{data}, {measured.num_images} validation images",
        label(metric): (
            f"{figure(metric, measured.score)} on these "
            f"(test {figure(metric, record.test_score or 0)})"
        ),
        "budget": f"{record.cost(resource):.12g} {resource} (limit {record.budget:g} in the sweep)",
        "MACs": f"{count_text(record.macs)}, {record.macs_ratio or 0:.4f} of the supernet's",
        "parameters": count_text(record.num_params),
        "channels": widths_text(record.widths),
        "latency": f"{measured.latency_ms:.3g} ms, one image on one CPU thread",
    }
    lines = [
        f"**{trial_name(record, resource, limit)}**",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows.items()),
    ]
    lines += ["", "Gates:", ""]
    lines += [f"- **{gate.name}** {_verdict(gate)}: {gate.sentence}" for gate in gates]
    return "\n".join(lines)


def _verdict(gate: GateResult) -> str:
    if not gate.passed:
        return "refused"
    return "reported" if gate.required is None else "passed"
