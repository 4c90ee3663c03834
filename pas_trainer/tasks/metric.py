"""What networks of a task are compared by."""

from __future__ import annotations

from dataclasses import dataclass


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
        if not (self.name.isidentifier() and self.name.islower()):
            raise ValueError(f"metric {self.name!r} is no name; write it like mask_map or psnr_db")


ACCURACY = Metric("accuracy")
"""Of classification: the share of images that are classified correctly, in [0, 1]."""
