"""Cost of a network as a pure function of its widths.

Every cost takes one float64 vector of group widths (open units per channel group, in the order of
the graph's groups) and returns a 0-d tensor; leading batch dimensions are kept. Whole numbers
below 2**53 are exact in float64, so integers (reports) and differentiable widths (the budget
loss) go through the same formula and cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from search_space.constants import Constant


@dataclass(frozen=True, slots=True)
class Width:
    """Number of channels on one axis of a tensor.

    Attributes:
        fixed: channels that always stay.
        per_unit: (group, channels on this axis for each open unit of the group).
    """

    fixed: int = 0
    per_unit: tuple[tuple[str, int], ...] = ()

    def of(self, widths: Mapping[str, int]) -> int:
        """Return the number of channels at these widths."""
        return self.fixed + sum(count * widths[group] for group, count in self.per_unit)


@dataclass(frozen=True, slots=True)
class Product:
    """One addend of a cost: ``coefficient * a * b``.

    Attributes:
        source: module or parameter that causes it.
        coefficient: for MACs of a convolution, kernel taps times output positions.
        a, b: the two widths it grows with.
    """

    source: str
    coefficient: float
    a: Width = Width(1)
    b: Width = Width(1)

    @property
    def is_searchable(self) -> bool:
        """Whether the addend depends on any group's width."""
        return bool(self.a.per_unit or self.b.per_unit)


class Cost(Protocol):
    """A resource as a function of widths."""

    def __call__(self, widths: Tensor) -> Tensor:
        """Return the cost (...) at ``widths`` (..., number of groups), float64."""
        ...


class Affine:
    """Several widths at once: ``matrix @ widths + fixed``, shapes (rows, groups) and (rows,)."""

    def __init__(self, rows: Sequence[Width], groups: Sequence[str]) -> None:
        column = {name: k for k, name in enumerate(groups)}
        matrix = torch.zeros(len(rows), len(groups), dtype=torch.float64)
        for k, row in enumerate(rows):
            for group, count in row.per_unit:
                matrix[k, column[group]] += count
        fixed = torch.tensor([float(row.fixed) for row in rows], dtype=torch.float64)
        self._matrix, self._fixed = Constant(matrix), Constant(fixed)

    def __call__(self, widths: Tensor) -> Tensor:
        """Return the widths of all rows, (..., rows)."""
        return widths @ self._matrix.on(widths.device).T + self._fixed.on(widths.device)


class BilinearCost:
    """A sum of :class:`Product` addends: MACs and parameters."""

    def __init__(self, products: Sequence[Product], groups: Sequence[str]) -> None:
        constant = [p for p in products if not p.is_searchable]
        varying = [p for p in products if p.is_searchable]
        self._constant = sum(p.coefficient * p.a.fixed * p.b.fixed for p in constant)
        coefficients = torch.tensor([float(p.coefficient) for p in varying]).double()
        self._coefficients = Constant(coefficients)
        self._a = Affine([p.a for p in varying], groups)
        self._b = Affine([p.b for p in varying], groups)

    def __call__(self, widths: Tensor) -> Tensor:
        """Return the sum over all addends."""
        coefficients = self._coefficients.on(widths.device)
        addends = self._a(widths) * self._b(widths) * coefficients
        return addends.sum(-1) + self._constant


class PeakCost:
    """The largest of several moments: activation memory.

    Args:
        moments: per moment, what is alive then, all in the unit of the resource.
        groups: names in the order of the widths.
    """

    def __init__(self, moments: Sequence[Width], groups: Sequence[str]) -> None:
        self._moments = Affine(moments or [Width()], groups)

    def __call__(self, widths: Tensor) -> Tensor:
        """Return the maximum over the moments."""
        return self._moments(widths).amax(-1)
