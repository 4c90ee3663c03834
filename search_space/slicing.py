"""From a network to a compact one: closed channels physically gone, branches kept.

Slicing is exact: what is removed had no influence on anything that stays. Parameters and buffers
are shortened along their axes; reparameterizable blocks slice themselves; modules whose own code
would misplace channels get new code (see :mod:`search_space.relayout`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from search_space.channel_graph import ChannelGraph, kept_entries
from search_space.copies import copy_network
from search_space.fakes import default_device, fake_copy
from search_space.relayout import apply_relayouts
from search_space.reparam import ReparamBlock

_FEWEST_STRIDED = 8


@torch.no_grad()
def slice_network(
    model: nn.Module, graph: ChannelGraph, open_channels: Mapping[str, Sequence[int]]
) -> nn.Module:
    """Return a copy of a network with only these channels; the model is untouched.

    Args:
        model: the network that ``graph`` was traced from, or a copy of it.
        graph: its channel graph.
        open_channels: by group, the units that stay, ascending; every group must be named.

    Raises:
        ValueError: a group is missing or unknown, or units are out of range or order.
    """
    with default_device(torch.device("cpu")):  # indices are numbers, also for networks on "meta"
        is_open = graph.open_units(open_channels)
        compact = _slice_blocks(copy_network(model), graph, is_open, ReparamBlock.sliced)
        _shorten(compact, graph, is_open)
        return _adapt_modules(compact, graph, is_open)


def fake_slice(
    model: nn.Module, graph: ChannelGraph, is_open: Tensor, mode: FakeTensorMode
) -> nn.Module:
    """Return the sliced network with fake parameters; nothing is computed."""
    shapes: dict[str, list[int]] = {}
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for axis in graph.layout.axes:
        shape = shapes.setdefault(axis.tensor, list(tensors[axis.tensor].shape))
        shape[axis.dim] = len(kept_entries(axis.units, is_open))
    compact = fake_copy(model, mode, shapes)

    def resized(block: ReparamBlock, read: Tensor, written: Tensor) -> ReparamBlock:
        with mode:
            return block.resized(read, written)

    return _adapt_modules(_slice_blocks(compact, graph, is_open, resized), graph, is_open)


def _slice_blocks(
    network: nn.Module,
    graph: ChannelGraph,
    is_open: Tensor,
    sliced: Callable[[ReparamBlock, Tensor, Tensor], ReparamBlock],
) -> nn.Module:
    for block in graph.layout.blocks:
        leaf = network.get_submodule(block.module)
        assert isinstance(leaf, ReparamBlock)
        read, written = kept_entries(block.read, is_open), kept_entries(block.written, is_open)
        compact = sliced(leaf, read, written).train(leaf.training)
        if not block.module:
            return compact
        every = list(network.named_modules(remove_duplicate=False))
        for name in [name for name, module in every if module is leaf]:
            network.set_submodule(name, compact)
    return network


def _adapt_modules(network: nn.Module, graph: ChannelGraph, is_open: Tensor) -> nn.Module:
    for name, module in network.named_modules():
        _update_sizes(module, shrinks=name in graph.layout.shrinking_convs)
    for name, units in graph.layout.sized:
        norm: Any = network.get_submodule(name)
        count = len(kept_entries(units, is_open))
        if isinstance(norm, nn.GroupNorm):  # each channel by itself
            norm.num_channels = norm.num_groups = count
        else:
            norm.num_features = count
    _avoid_strided_pointwise(network)
    return apply_relayouts(network, graph.layout.relayouts, is_open)


def _shorten(network: nn.Module, graph: ChannelGraph, is_open: Tensor) -> None:
    """Keep only some entries along the axes of parameters and buffers, under all their names."""
    holders: dict[int, list[tuple[dict[str, Any], str]]] = {}
    for module in network.modules():
        for own in (module._parameters, module._buffers):
            for key, tensor in own.items():
                holders.setdefault(id(tensor), []).append((own, key))
    kept = {axis: kept_entries(axis.units, is_open) for axis in graph.layout.axes}
    for axis, entries in kept.items():
        path, _, leaf = axis.tensor.rpartition(".")
        old = getattr(network.get_submodule(path), leaf)
        new = old.detach().index_select(axis.dim, entries.to(old.device))
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
        places = holders.pop(id(old))
        for own, key in places:
            own[key] = new
        holders[id(new)] = places


def _update_sizes(module: nn.Module, *, shrinks: bool) -> None:
    """Make what a module says of its sizes agree with its weights."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        assert weight is not None
        if shrinks:
            module.groups = module.groups * weight.shape[0] // module.in_channels
        module.in_channels, module.out_channels = weight.shape[0], weight.shape[1] * module.groups
    elif isinstance(module, nn.modules.conv._ConvNd):
        assert weight is not None
        if shrinks:
            module.groups = module.groups * weight.shape[0] // module.out_channels
        module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.GroupNorm):
        channels = module.num_channels if weight is None else len(weight)
        if module.num_groups == module.num_channels:  # each channel by itself
            module.num_groups = channels
        module.num_channels = channels
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()
    elif isinstance(weight, Tensor) and weight.ndim == 1:
        shape = getattr(module, "normalized_shape", None)
        if shape is not None:
            module.normalized_shape = type(shape)(weight.shape) if shape else shape


class _StridedPointwise(nn.Conv2d):
    """A 1x1 convolution that takes its stride by leaving out pixels: the same function.

    The backward pass of a strided 1x1 convolution with fewer than 8 input channels in
    channels_last corrupts memory on CPUs (torch 2.13 to 2.15).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of every ``stride``-th pixel."""
        height, width = self.stride
        pixels = input[:, :, ::height, ::width]
        return nn.functional.conv2d(pixels, self.weight, self.bias)


def _avoid_strided_pointwise(network: nn.Module) -> None:
    for module in network.modules():
        if (
            type(module) is nn.Conv2d
            and module.kernel_size == (1, 1)
            and module.stride != (1, 1)
            and module.padding in {(0, 0), 0}
            and module.groups == 1
            and module.in_channels < _FEWEST_STRIDED
        ):
            module.__class__ = _StridedPointwise
