"""The channel graph of a sliced network, from that of the network it was sliced from.

Nothing is traced: slicing keeps the places of what stays, so entries of removed units are left out
and the others renumbered. Costs are the same functions of the widths, measured latencies included.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from search_space.channel_graph import Axis, BlockChannels, ChannelGraph, Layout, kept_entries
from search_space.fakes import default_device
from search_space.relayout import Relayout
from search_space.reparam import ReparamBlock


def narrow_graph(
    graph: ChannelGraph, sliced: nn.Module, open_channels: Mapping[str, Sequence[int]]
) -> ChannelGraph:
    """Return the channel graph of ``sliced``; unit i of a group is the i-th that is open.

    Args:
        graph: of the network that was sliced.
        sliced: what :func:`search_space.slice_network` made of it with ``open_channels``.
        open_channels: by group, the units that stayed, ascending.

    Raises:
        ValueError: a group is missing or unknown, or units are out of range or order.
    """
    with default_device(torch.device("cpu")):
        narrowing = _Narrowing(graph.open_units(open_channels))
        widths = {name: len(units) for name, units in open_channels.items()}
        return graph.resized(widths, narrowing.layout(graph.layout, sliced))


class _Narrowing:
    """Renumbers units.

    Args:
        is_open: which units stayed, bool over all groups in order.
    """

    def __init__(self, is_open: Tensor) -> None:
        self._is_open = is_open
        # Removed units get the number behind the last, which counts as closed for ever.
        self._number = torch.where(is_open, is_open.cumsum(0) - 1, is_open.sum())

    def layout(self, layout: Layout, sliced: nn.Module) -> Layout:
        """Return where the units that stayed lie in the tensors of ``sliced``."""
        blocks = tuple(
            BlockChannels(b.module, self._left(b.read), self._left(b.written))
            for b in layout.blocks
        )
        prefixes = tuple(f"{b.module}." if b.module else "" for b in blocks)
        others = [axis for axis in layout.readers if not axis.tensor.startswith(prefixes)]
        own = [axis for block in blocks for axis in _readers_of(block, sliced)]
        return dataclasses.replace(
            layout,
            axes=self._axes(layout.axes),
            readers=(*self._axes(others), *own),
            norms=self._axes(layout.norms),
            blocks=blocks,
            sized=tuple((name, self._left(units)) for name, units in layout.sized),
            relayouts=tuple(self._relayout(relayout) for relayout in layout.relayouts),
        )

    def _renumbered(self, units: Tensor) -> Tensor:
        return torch.where(units < 0, units, self._number[units.clamp_min(0)])

    def _left(self, units: Tensor) -> Tensor:
        return self._renumbered(units[kept_entries(units, self._is_open)])

    def _axes(self, axes: Sequence[Axis]) -> tuple[Axis, ...]:
        return tuple(Axis(axis.tensor, axis.dim, self._left(axis.units)) for axis in axes)

    def _relayout(self, relayout: Relayout) -> Relayout:
        units = self._renumbered(relayout.unit_of_label)
        return dataclasses.replace(relayout, unit_of_label=units)


def _readers_of(block: BlockChannels, network: nn.Module) -> list[Axis]:
    """Return what reads the block's input; an identity keeps an entry only with both its ends."""
    module = network.get_submodule(block.module)
    assert isinstance(module, ReparamBlock)
    prefix = f"{block.module}." if block.module else ""
    axes = [
        Axis(f"{prefix}{p.name}", p.dim, block.read if p.index is None else block.read[p.index])
        for p in module.read_parameters()
    ]
    return [axis for axis in axes if bool((axis.units >= 0).any())]
