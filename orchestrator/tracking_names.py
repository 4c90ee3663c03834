"""What a person at the screen reads of a trial: its budget in words, the name of its run."""

from __future__ import annotations

from orchestrator.records import STATUS_NAMES, TrialRecord
from orchestrator.scores import short
from search_space.budget import UNITS

_NOUNS = {
    "macs": "MACs",
    "num_params": "parameters",
    "activation_bytes": "activations",
    "latency_ms": "latency",
}


def budget_text(budget: float, resource: str, limit: float | None = None) -> str:
    """Return a budget in words: ``0.25 x MACs``, or ``300 k MACs`` if it is no share.

    Args:
        budget: as :attr:`TrialRecord.budget` has it.
        resource: what it limits.
        limit: the same in units of the resource, if that is known.
    """
    noun = _NOUNS[resource]
    if budget <= 1 if limit is None else budget != limit:
        return f"{budget:g} x {noun}"
    _, size, unit = min((len(f"{budget / s:g}"), -s, u) for u, s in UNITS[resource].items())
    number = f"{budget / -size:g} {unit}"
    return number if resource == "latency_ms" else f"{number} {noun}"


def trial_name(record: TrialRecord, resource: str, limit: float | None = None) -> str:
    """Return the name of a trial's run, with its result once it has ended.

    Arguments as :func:`budget_text` has them.
    """
    budget = budget_text(record.budget, resource, limit)
    if record.control is None:
        name = f"{budget}, strength {record.strength:g} #{record.number}"
    else:
        name = f"control {record.control}" + f", {budget}" * (record.control != "supernet")
    if record.status == "RUNNING":
        return name
    if record.status == "FINISHED" and record.score is not None:
        return f"{name}: {short(record.metric, record.score)}"
    return f"{name}: {STATUS_NAMES[record.status]}"
