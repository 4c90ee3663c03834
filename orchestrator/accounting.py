"""What trials and sweeps use, and what for: seconds, hours, prices.

A trial's seconds are measured by its worker, see :class:`pas_trainer.TrialResult`. The sweep's are
measured by the driver, see :mod:`orchestrator.slots`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.records import TrialRecord, controls_among, without_controls

if TYPE_CHECKING:
    from orchestrator.sections import PriceConfig

TOTALS = (
    "cpu_seconds",
    "gpu_seconds",
    "pretrain_seconds",
    "lost_seconds",
    "utilization",
    "price",
    "compute_saved",
)
"""What is known of a sweep as a whole, where it is known; metrics of its run."""


def booked(seconds: Mapping[str, float], cpus: float, gpus: float) -> dict[str, Any]:
    """Return what a record holds of a trial's time.

    Args:
        seconds: wall time by phase.
        cpus, gpus: what the trial books, all of its workers together.
    """
    total = sum(seconds.values())
    by_phase = {f"{phase}_seconds": value for phase, value in seconds.items()}
    return by_phase | {"cpu_seconds": cpus * total, "gpu_seconds": gpus * total}


def price_of(cpu_seconds: float, gpu_seconds: float, prices: PriceConfig) -> float:
    """Return what so much costs, in the currency of the prices."""
    return (cpu_seconds * (prices.cpu_hour or 0) + gpu_seconds * (prices.gpu_hour or 0)) / 3600


def priced(record: TrialRecord, prices: PriceConfig | None) -> TrialRecord:
    """Return a record with its price, if prices and its seconds are known."""
    cpu_seconds, gpu_seconds = record.cpu_seconds, record.gpu_seconds
    if prices is None or cpu_seconds is None or gpu_seconds is None:
        return record
    return dataclasses.replace(record, price=price_of(cpu_seconds, gpu_seconds, prices))


def summary(
    records: Sequence[TrialRecord], totals: Mapping[str, float], currency: str
) -> dict[str, Any]:
    """Return what a sweep used, in hours; ``None`` for what is not known.

    Args:
        records: its trials and controls.
        totals: :data:`TOTALS`, those that are known.
        currency: of the price.

    Returns:
        ``hours`` has the wall time by phase, on the worker of a trial or (``lost``, ``pretrain``)
        as in :class:`orchestrator.slots.Usage`.
    """
    phases = {
        name: [getattr(r, f"{name}_seconds") or 0.0 for r in records]
        for name in ("search", "finetune", "control")
    }
    hours = {
        "pretrain": _hours(totals.get("pretrain_seconds")),
        **{name: sum(seconds) / 3600 for name, seconds in phases.items()},
        "lost": _hours(totals.get("lost_seconds")),
    }
    return {
        "num_trials": len(without_controls(records)),
        "num_controls": len(controls_among(records)),
        "cpu_hours": _hours(totals.get("cpu_seconds")),
        "gpu_hours": _hours(totals.get("gpu_seconds")),
        "utilization": totals.get("utilization"),
        "price": totals.get("price"),
        "currency": currency or None,
        "compute_saved": totals.get("compute_saved"),
        "hours": {name: value for name, value in hours.items() if value},
    }


PHASE_NAMES = {
    "pretrain": "pre-training",
    "search": "search",
    "finetune": "fine-tuning",
    "control": "controls",
    "lost": "lost to failures",
}


def summary_text(used: Mapping[str, Any]) -> str:
    """Return a :func:`summary` as one or two lines."""
    counts = f"{used['num_trials']} trials"
    if used["num_controls"]:
        counts += f", {used['num_controls']} controls"
    parts = []
    for name in ("CPU", "GPU"):
        if hours := used[f"{name.lower()}_hours"]:
            parts.append(f"{amount(hours)} {name} hours")
    if used["utilization"] is not None:
        parts.append(f"utilization {used['utilization']:.0%}")
    if used["price"] is not None:
        parts.append(f"price {amount(used['price'])} {used['currency'] or ''}".rstrip())
    if used["compute_saved"]:
        parts.append(f"compute saved by early stopping {used['compute_saved']:.0%}")
    text = f"{counts}: {', '.join(parts)}" if parts else counts
    hours = ", ".join(f"{PHASE_NAMES[name]} {amount(v)}" for name, v in used["hours"].items())
    return f"{text}\nhours in slots: {hours}" if hours else text


def amount(value: float) -> str:
    """Return an amount of hours or money as people write it; small ones more exactly."""
    return f"{value:,.2f}" if value >= 1 else f"{value:.4f}"


def _hours(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 3600
