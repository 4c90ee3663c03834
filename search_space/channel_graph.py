"""Channel groups of a network and its cost as a function of their widths.

One multiply-add is one MAC. Costs are those of the *deploy form*, for one image: reparameterizable
blocks count as the one convolution they become, since that is what runs in production.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

if TYPE_CHECKING:
    from search_space.relayout import Relayout

from search_space.costs import BilinearCost, Cost, PeakCost, Product, Width
from search_space.operators import Operator, ScopeInputs

RESOURCES = ("macs", "num_params", "activation_bytes", "latency_ms")
"""Resources a budget can limit. ``latency_ms`` needs a measured table, see
:meth:`ChannelGraph.with_latency`."""


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Channels that a search opens and closes, and that any cost counts alike.

    A *unit* is the least that can be removed: the channels that must be kept or dropped together
    (a convolution's output channel, the same channel of whatever it is added to, four neighbours
    in a grouped convolution with four channels per group). A group holds units that appear in the
    same places equally often, so that every cost depends only on how many of them are open.

    Example: in a chain of convolutions the group ``conv1`` has ``conv1`` as its producer (it
    writes the channels) and ``conv2`` as its consumer (it reads them). In a residual stage all
    convolutions that are added up are producers of one group.

    Attributes:
        name: unique name, that of its first producer, with ``[first channel]`` behind it where
            several groups share that producer.
        size: number of units in the supernet.
        producers: modules that write the channels.
        consumers: modules that read them.
        channels_per_unit: channels of the first producer that one unit stands for.
    """

    name: str
    size: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    channels_per_unit: int = 1


@dataclass(frozen=True, slots=True)
class UnsupportedOp:
    """An operation that forces channels to stay.

    What reaches it keeps all its channels; its own MACs, if any, count as fixed.

    Attributes:
        module: module (or function in a module) where it is.
        reason: what it is and why it needs every channel.
    """

    module: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One axis of a parameter or buffer whose entries belong to channels.

    Attributes:
        tensor: name of the parameter or buffer.
        dim: the axis.
        units: long (size of the axis,): unit of each entry, counted over all groups in order;
            -1 where the entry always stays.
    """

    tensor: str
    dim: int
    units: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class BlockChannels:
    """Channels of a reparameterizable block, which slices itself; ``units`` as in :class:`Axis`."""

    module: str
    read: Tensor
    written: Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the units of a graph lie in the network's tensors.

    Attributes:
        axes: every axis that slicing shortens.
        readers: the axes of weights that mix channels: scaling the entries of a unit there by
            its gate is the same as scaling the unit's channels for everything downstream.
        norms: layer and group norms (by their weight) whose statistics run over the channels.
        blocks: reparameterizable blocks.
        sized: (module, units as in :class:`Axis`) of norms that know their number of channels,
            even without parameters.
        shrinking_convs: grouped convolutions that lose whole groups, so that ``groups`` shrinks.
        relayouts: modules whose own code would misplace channels once some are gone.
    """

    axes: tuple[Axis, ...] = ()
    readers: tuple[Axis, ...] = ()
    norms: tuple[Axis, ...] = ()
    blocks: tuple[BlockChannels, ...] = ()
    sized: tuple[tuple[str, Tensor], ...] = ()
    shrinking_convs: frozenset[str] = frozenset()
    relayouts: tuple[Relayout, ...] = ()


def kept_entries(units: Tensor, is_open: Tensor) -> Tensor:
    """Return the positions of the entries of an axis that stay, long, ascending."""
    return ((units < 0) | is_open[units.clamp_min(0)]).nonzero().flatten()


class ChannelGraph:
    """Channel groups of one network. Refers to modules by name, so it serves every copy of it.

    Attributes:
        groups: the searchable groups, in order of execution.
        layout: where their units lie in the network's tensors.
        macs_by_layer: what each layer adds to the MACs, in order of execution.
        operators: everything the network runs, in deploy form and order of execution.
        inputs: what reaches the network, or each of its searched parts.
    """

    def __init__(
        self,
        groups: Sequence[ChannelGroup],
        macs_by_layer: Sequence[Product],
        params: Sequence[Product] = (),
        moments: Sequence[Width] = (),
        *,
        layout: Layout = Layout(),
        unsupported: Sequence[UnsupportedOp] = (),
        operators: Sequence[Operator] = (),
        inputs: Sequence[ScopeInputs] = (),
    ) -> None:
        self.groups = tuple(groups)
        self.macs_by_layer = tuple(macs_by_layer)
        self.layout = layout
        self.operators = tuple(operators)
        self.inputs = tuple(inputs)
        self._unsupported = tuple(unsupported)
        self._sizes = {group.name: group.size for group in groups}
        names = list(self._sizes)
        self._costs: dict[str, Cost] = {
            "macs": BilinearCost(macs_by_layer, names),
            "num_params": BilinearCost(params, names),
            "activation_bytes": PeakCost(moments, names),
        }

    @overload
    def count_macs(self, widths: Mapping[str, int] | None = None) -> int: ...
    @overload
    def count_macs(self, widths: Mapping[str, Tensor]) -> Tensor: ...
    def count_macs(
        self, widths: Mapping[str, int] | Mapping[str, Tensor] | None = None
    ) -> int | Tensor:
        """MACs of one forward pass of one image in deploy form.

        Args:
            widths: open units by group, integers or 0-d tensors; missing groups are full.
        """
        macs: int | Tensor = self.count("macs", widths)
        return macs

    @overload
    def count_params(self, widths: Mapping[str, int] | None = None) -> int: ...
    @overload
    def count_params(self, widths: Mapping[str, Tensor]) -> Tensor: ...
    def count_params(
        self, widths: Mapping[str, int] | Mapping[str, Tensor] | None = None
    ) -> int | Tensor:
        """Parameters in deploy form; arguments as :meth:`count_macs`."""
        num_params: int | Tensor = self.count("num_params", widths)
        return num_params

    def count(self, resource: str, widths: Mapping[str, Any] | None = None) -> Any:
        """Cost in one of :data:`RESOURCES`; arguments as :meth:`count_macs`.

        Returns:
            A 0-d float64 tensor if any width is one, differentiable; else an ``int``, or a
            ``float`` for ``latency_ms``.

        Raises:
            ValueError: unknown resource, or ``latency_ms`` without a table.
        """
        given = widths or {}
        values = [given.get(name, size) for name, size in self._sizes.items()]
        tensors = [value for value in values if isinstance(value, Tensor)]
        if tensors:
            device = tensors[0].device
            vector = torch.stack([torch.as_tensor(v, device=device).double() for v in values])
            return self.evaluate(resource, vector)
        cost = float(self.evaluate(resource, torch.tensor(values, dtype=torch.float64)))
        return cost if resource == "latency_ms" else round(cost)

    def evaluate(self, resource: str, widths: Tensor) -> Tensor:
        """Cost (...) at widths (..., number of groups), float64, in the order of the groups.

        Raises:
            ValueError: as :meth:`count`.
        """
        if resource not in RESOURCES:
            raise ValueError(f"unknown resource {resource!r}; known: {', '.join(RESOURCES)}")
        if resource not in self._costs:
            raise ValueError(f"{resource} needs a measured table; see ChannelGraph.with_latency")
        return self._costs[resource](widths)

    def unsupported_ops(self) -> tuple[UnsupportedOp, ...]:
        """Operations that forced channels to stay; empty if everything was understood."""
        return self._unsupported

    def full_widths(self) -> dict[str, int]:
        """Width of every group in the supernet."""
        return dict(self._sizes)

    def searchable_share(self) -> float:
        """Share of the MACs in layers that read or write searchable channels, in [0, 1]."""
        sizes = self._sizes
        costs = [(p, p.coefficient * p.a.of(sizes) * p.b.of(sizes)) for p in self.macs_by_layer]
        total = sum(cost for _, cost in costs)
        return sum(cost for p, cost in costs if p.is_searchable) / total if total else 0.0

    def open_units(self, open_channels: Mapping[str, Sequence[int]]) -> Tensor:
        """Return which units are open, bool over all groups in order.

        Raises:
            ValueError: a group is missing or unknown, or units are out of range or order.
        """
        sizes = self._sizes
        odd = sorted(set(open_channels) ^ set(sizes))
        if odd:
            close = difflib.get_close_matches(odd[0], list(sizes), n=1)
            hint = f"; did you mean {close[0]!r}?" if close and odd[0] not in sizes else ""
            raise ValueError(
                f"open_channels must name every channel group; at odds: {odd[0]!r}{hint}"
            )
        masks = []
        for name, size in sizes.items():
            units = list(open_channels[name])
            ascending = units == sorted(set(units))
            if not (units and ascending and units[0] >= 0 and units[-1] < size):
                raise ValueError(f"open_channels of group {name} must ascend within 0..{size - 1}")
            mask = torch.zeros(size, dtype=torch.bool)
            mask[torch.tensor(units)] = True
            masks.append(mask)
        return torch.cat(masks)

    def uniform_widths(self, resource: str, limit: float) -> dict[str, int]:
        """Widths of one common share per group, as large as ``limit`` allows.

        Raises:
            ValueError: not even one unit per group fits.
        """
        sizes = torch.tensor(list(self._sizes.values()), dtype=torch.float64)
        steps = sorted({c / size for size in self._sizes.values() for c in range(1, size + 1)})
        low, high = -1, len(steps) - 1
        while low < high:  # the last share whose network is within the limit
            middle = (low + high + 1) // 2
            widths = (sizes * steps[middle] + 1e-9).floor().clamp_min(1)
            if float(self.evaluate(resource, widths)) <= limit:
                low = middle
            else:
                high = middle - 1
        if low < 0:
            raise ValueError(f"no uniform network has {resource} <= {limit}")
        share = steps[low]
        return {n: max(1, math.floor(share * s + 1e-9)) for n, s in self._sizes.items()}

    def resized(self, sizes: Mapping[str, int], layout: Layout) -> ChannelGraph:
        """Return this graph with smaller groups, the same costs, and another layout.

        See :func:`search_space.narrow_graph`.
        """
        other = copy.copy(self)
        other.groups = tuple(dataclasses.replace(g, size=sizes[g.name]) for g in self.groups)
        other.layout = layout
        other._sizes = {group.name: group.size for group in other.groups}
        return other

    def with_latency(self, cost: Cost) -> ChannelGraph:
        """Return this graph with a cost for ``latency_ms``; the graph itself is untouched."""
        other = copy.copy(self)
        other._costs = {**self._costs, "latency_ms": cost}
        return other
