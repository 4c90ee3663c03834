"""Ranges of hyper-parameters, free of any tuning library.

:mod:`orchestrator.studies` turns them into Optuna distributions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatRange:
    """A real number in ``[low, high]``, drawn uniformly or, with ``log``, log-uniformly."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        """Check the ends."""
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ValueError(f"low {self.low} and high {self.high} are not an ascending range")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low}; a log range must start above 0")

    def contains(self, value: float) -> bool:
        """Whether ``value`` lies in the range."""
        return self.low <= value <= self.high


TUNABLE: Mapping[str, FloatRange] = {
    "learning_rate": FloatRange(low=1e-6, high=10.0),
    "gate_learning_rate": FloatRange(low=1e-6, high=100.0),
    "weight_decay": FloatRange(low=0.0, high=1.0),
    "label_smoothing": FloatRange(low=0.0, high=0.9),
    "toward_uniform": FloatRange(low=0.0, high=1.0),
}
"""What a sweep may steer, with the widest range that makes sense."""


def check_tunable(ranges: Mapping[str, FloatRange]) -> None:
    """Check that every range is of a known hyper-parameter and within its sensible values.

    Raises:
        ValueError: naming the hyper-parameter and what is wrong.
    """
    for name, given in ranges.items():
        if name not in TUNABLE:
            raise ValueError(f"unknown hyper-parameter {name!r}; known: {', '.join(TUNABLE)}")
        widest = TUNABLE[name]
        if not (widest.contains(given.low) and widest.contains(given.high)):
            raise ValueError(
                f"{name} ranges over [{given.low:g}, {given.high:g}]; "
                f"it must stay within [{widest.low:g}, {widest.high:g}]"
            )
