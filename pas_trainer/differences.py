"""How far answers of networks are apart."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def relative_error(expected: Tensor, found: Tensor) -> float:
    """Return the largest difference over max(1, largest expected value); NaN if any value is."""
    scale = max(1.0, float(expected.abs().max()))
    return float((expected.double() - found.double()).abs().max()) / scale


def largest_error(errors: Iterable[float]) -> float:
    """Return the largest of errors, none of them negative; NaN if one is, and 0 of none."""
    return float(torch.tensor([0.0, *errors], dtype=torch.float64).max())
