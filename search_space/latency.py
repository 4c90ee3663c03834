"""Latency of a network as a function of its widths, from a table of measured operators.

The table holds, per operator, its time on a grid of (read, written) channels. Between grid points
the time is interpolated bilinearly, so that the sum over all operators is differentiable in the
widths and can stand in a budget loss (as in ProxylessNAS, Cai et al., ICLR 2019, section 3.2,
there over a choice of operators instead of widths).

Times of operators do not quite add up to the time of a network (dispatch, caches), hence a factor
per network: its measured time at full width over the sum of its operators' there.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from search_space.channel_graph import ChannelGraph
from search_space.costs import Affine
from search_space.interpolation import Interpolation
from search_space.operators import Operator, network_signature


@dataclass(frozen=True, slots=True)
class LatencyGrid:
    """Measured times of one operator.

    Attributes:
        read, written: channels, ascending.
        ms: milliseconds, one row per entry of ``read``, one column per entry of ``written``.

    Raises:
        ValueError: the three do not fit together, or a time is negative or not finite.
    """

    read: tuple[int, ...]
    written: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        for name, channels in (("read", self.read), ("written", self.written)):
            if not channels or any(a >= b for a, b in itertools.pairwise(channels)):
                raise ValueError(f"{name} is {list(channels)}; it must ascend, at least one entry")
        rows, columns = len(self.read), len(self.written)
        if len(self.ms) != rows or any(len(row) != columns for row in self.ms):
            raise ValueError(f"ms must have {rows} rows of {columns} times each")
        if not all(0 <= t < float("inf") for row in self.ms for t in row):
            raise ValueError("ms holds a time that is negative or not finite; measure it again")


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Measured operators of one device.

    Attributes:
        device: what was measured on, for people and for the cache.
        grids: by the operators' signatures.
        factors: measured time of a network at full width over the sum of its operators', by
            :func:`~search_space.operators.network_signature`.
    """

    device: str
    grids: Mapping[str, LatencyGrid]
    factors: Mapping[str, float]

    def to_json(self) -> str:
        """Return the table as a JSON document."""
        grids = {
            signature: {"read": grid.read, "written": grid.written, "ms": grid.ms}
            for signature, grid in self.grids.items()
        }
        document = {"device": self.device, "factors": dict(self.factors), "grids": grids}
        return json.dumps(document, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> LatencyTable:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: it is something else; one sentence that says what is wrong.
        """
        try:
            document = json.loads(text)
            grids = {str(key): _grid(value) for key, value in document["grids"].items()}
            factors = {str(k): float(v) for k, v in document["factors"].items()}
            device = str(document["device"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"this is no latency table: {reason}") from error
        if not all(0 < factor < float("inf") for factor in factors.values()):
            raise ValueError("this is no latency table: a factor is not positive and finite")
        return cls(device, grids, factors)


def _grid(value: Any) -> LatencyGrid:
    read, written = (tuple(int(c) for c in value[side]) for side in ("read", "written"))
    return LatencyGrid(read, written, tuple(tuple(float(t) for t in row) for row in value["ms"]))


class LatencyCost:
    """Milliseconds of one pass of a batch, as a :class:`~search_space.costs.Cost`.

    The value is bilinear between measured points and constant outside them. Kernels work on
    blocks of channels, so time rises in stairs, flat for most widths; the gradient therefore is
    that of the same interpolation through fewer points (see :func:`spread_points`), the slope of
    the stairs as a whole. Times are made to rise with the width first, see :func:`monotone`.

    Args:
        operators: of the network; several with equal grids and widths count as one.
        groups: names in the order of the widths.
        table: holds a grid for every operator.
        factor: for the network as a whole.

    Raises:
        ValueError: an operator is missing from the table.
    """

    def __init__(
        self,
        operators: Sequence[Operator],
        groups: Sequence[str],
        table: LatencyTable,
        factor: float = 1.0,
    ) -> None:
        for operator in operators:
            if operator.signature not in table.grids:
                raise ValueError(
                    f"operator {operator.name!r} ({operator.signature}) is missing from the "
                    f"latency table of {table.device}; measure it with measure_latency_table"
                )
        counts = Counter((o.signature, o.read, o.written) for o in operators)
        self._read = Affine([read for _, read, _ in counts], groups)
        self._written = Affine([written for _, _, written in counts], groups)
        grids, spread = [], []
        for (signature, _, _), count in counts.items():
            grid = table.grids[signature]
            ms = monotone(torch.tensor(grid.ms, dtype=torch.float64)) * (count * factor)
            i, j = spread_points(grid.read), spread_points(grid.written)
            grids.append((grid.read, grid.written, ms))
            fewer = [grid.read[k] for k in i], [grid.written[k] for k in j]
            spread.append((*fewer, ms[i][:, j]))
        self._stairs, self._slope = Interpolation(grids), Interpolation(spread)

    def __call__(self, widths: Tensor) -> Tensor:
        """Return the milliseconds (...) at ``widths`` (..., number of groups), float64."""
        read, written = self._read(widths), self._written(widths)
        ms = self._stairs(read.detach(), written.detach())
        if torch.is_grad_enabled() and widths.requires_grad:
            slope = self._slope(read, written)
            ms = slope + (ms - slope.detach())
        return ms.sum(-1)


def monotone(ms: Tensor) -> Tensor:
    """Make times (read, written) rise along both axes; those that do already stay.

    A wider layer shall not look better for noise. The result is the mean of the greatest rising
    grid below the times and the least above them.
    """
    above = ms.cummax(0).values.cummax(1).values
    below = ms.flip((0, 1)).cummin(0).values.cummin(1).values.flip((0, 1))
    return (above + below) / 2


def spread_points(points: Sequence[int]) -> list[int]:
    """Return the indices of the first point, the last, and those a quarter above the one before."""
    kept = [0]
    for k, point in enumerate(points[1:], start=1):
        if point >= 1.25 * points[kept[-1]] or k == len(points) - 1:
            kept.append(k)
    return kept


def graph_with_latency(graph: ChannelGraph, table: LatencyTable) -> ChannelGraph:
    """Return the graph with ``latency_ms`` among its costs; the graph itself is untouched.

    Raises:
        ValueError: an operator, or the network as a whole, was not measured.
    """
    groups = [group.name for group in graph.groups]
    network = network_signature(graph.operators)
    cost = LatencyCost(graph.operators, groups, table, table.factors.get(network, 1.0))
    if network not in table.factors:
        raise ValueError(
            f"the latency table of {table.device} has all operators of this network but not its "
            "time as a whole; pass the network to measure_latency_table"
        )
    return graph.with_latency(cost)
