"""Bilinear interpolation in many grids at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from search_space.constants import Constant

Grid = tuple[Sequence[float], Sequence[float], Tensor]
"""Ascending x (rows), ascending y (columns), values (rows, columns)."""


class Interpolation:
    """One bilinear function per grid, constant outside it; all are evaluated together.

    Exact at grid points and differentiable in x and y. At a grid point the slope is that towards
    the next, at the last point that from the one before.

    Args:
        grids: of any sizes; a side of one point makes the function constant along it.
    """

    def __init__(self, grids: Sequence[Grid]) -> None:
        rows = max((len(x) for x, _, _ in grids), default=1)
        columns = max((len(y) for _, y, _ in grids), default=1)
        self._x = Constant(_padded([x for x, _, _ in grids], rows))
        self._y = Constant(_padded([y for _, y, _ in grids], columns))
        every = torch.zeros(len(grids), rows, columns, dtype=torch.float64)
        for k, (x, y, values) in enumerate(grids):
            every[k, : len(x), : len(y)] = values
        self._values = Constant(every)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the values (..., grids) at x and y, each (..., grids) in float64."""
        values = self._values.on(x.device)
        i, next_i, s = _place(self._x.on(x.device), x)
        j, next_j, t = _place(self._y.on(x.device), y)
        k = torch.arange(len(values), device=x.device)
        low = torch.lerp(values[k, i, j], values[k, i, next_j], t)
        high = torch.lerp(values[k, next_i, j], values[k, next_i, next_j], t)
        return torch.lerp(low, high, s)


def _padded(sides: Sequence[Sequence[float]], size: int) -> Tensor:
    """Return (grids, size) float64, missing points infinitely far."""
    padded = [[*points, *[float("inf")] * (size - len(points))] for points in sides]
    return torch.tensor(padded, dtype=torch.float64).reshape(-1, size)


def _place(points: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the neighbouring points of each x and how far it is from one to the other, in [0, 1].

    Args:
        points: (grids, points), padded with infinity.
        x: (..., grids).
    """
    last = points.isfinite().sum(-1) - 1
    below = (points <= x.detach().unsqueeze(-1)).sum(-1) - 1
    below = torch.minimum(below, last - 1).clamp_min(0)
    above = torch.minimum(below + 1, last)
    k = torch.arange(len(points), device=x.device)
    start, end = points[k, below], points[k, above]
    # Unlike clamp(), this keeps the gradient at the first and the last point. With one point,
    # start and end are the same, and so are the values there.
    inside = torch.where(x < start, start, torch.where(x > end, end, x))
    return below, above, (inside - start) / (end - start).clamp_min(1e-9)
