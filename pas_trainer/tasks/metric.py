"""What networks of a task are compared by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

RESERVED = frozenset(
    [
        "trial_id",
        "sweep_id",
        "status",
        "budget",
        "strength",
        "number",
        "control",
        "hyperparameters",
        "micro_batches",
        "macs",
        "macs_ratio",
        "num_params",
        "activation_bytes",
        "latency_ms",
        "predicted_latency_ms",
        "training_macs",
        "saved_macs",
        "search_seconds",
        "finetune_seconds",
        "control_seconds",
        "cpu_seconds",
        "gpu_seconds",
        "seconds",
        "price",
        "metric",
        "higher_is_better",
        "score",
        "test_score",
        "metrics",
        "widths",
        "content_hash",
        "error",
        "run_id",
        "on_front",
        "loss",
        "phase",
        "hypervolume",
        # of a registered version, and of the moves of an alias
        "task",
        "form",
        "data",
        "resource",
        "cost",
        "parity_error",
        "stored",
        "latency",
        "parity",
        "robustness",
        "time",
        "kind",
        "alias",
        "from_version",
        "to_version",
        "move_id",
        "who",
        "why",
        "gates",
        "done",
        "state",
        "model",
        "in_force",
    ]
)
"""What else is recorded of trials and of what becomes of them, under these names."""

_BEGINNINGS = ("test_", "epoch_", "supernet_", "best_")


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a network, measured on a split.

    Attributes:
        name: in records, MLflow and JSON: ``accuracy``, ``mask_map``, ``psnr_db``.
        higher_is_better: which way.
    """

    name: str
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        """Check the name, which becomes a key."""
        _check_name(self.name)

    def check_figures(self, figures: Mapping[str, Any]) -> dict[str, float]:
        """Return what a judge has found as plain numbers, once all can be recorded.

        Args:
            figures: numbers of Python or numpy, or tensors of one value.

        Raises:
            ValueError: it is no mapping, the metric is missing, a name cannot be that of a metric,
                or a figure is no real number.
        """
        if not isinstance(figures, Mapping):
            kind = type(figures).__name__
            raise ValueError(  # noqa: TRY004
                f"the judge gave a {kind}, not figures by name; return a dict with {self.name}"
            )
        if self.name not in figures:
            known = ", ".join(map(str, figures)) or "nothing"
            raise ValueError(f"the judge gave {known}, but no {self.name}")
        for name in figures:
            _check_name(name)
        return {name: _plain_number(name, value) for name, value in figures.items()}


def _plain_number(name: str, value: Any) -> float:
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, Real):
        shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
        raise ValueError(  # noqa: TRY004
            f"the judge gave a {type(value).__name__}{shape} as {name}; return one real number"
        )
    return float(value)


def _check_name(name: Any) -> None:
    if not (isinstance(name, str) and name.isidentifier() and name.islower()):
        raise ValueError(f"metric {name!r} is no name; write it like mask_map or psnr_db")
    if name in RESERVED or name.startswith(_BEGINNINGS):
        raise ValueError(
            f"metric {name!r} has the name of something else that is recorded of a trial; "
            "choose another one"
        )


ACCURACY = Metric("accuracy")
"""Of classification: the share of images that are classified correctly, in [0, 1]."""
