"""From a gated network to a compact one: closed channels physically gone, branches kept.

Slicing is exact. A closed channel reaches its readers only through the bias of an identity
branch's batch-norm (its weight is gated, its bias is not); that constant moves into the bias of
the 3x3 branch, which is added at the same place.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from pas_trainer.gates import GatedNetwork
from search_space import Layer, PlainBlock, RepVGGBlock


def slice_channels(gated: GatedNetwork) -> nn.Module:
    """Return the compact network, still with its training branches; ``gated`` is untouched.

    Equal outputs in eval mode. In training mode equal too, up to the batch statistics of
    identity branches, which follow the same channels.
    """
    compact = copy.deepcopy(gated.network)
    open_channels = {
        name: torch.tensor(channels) for name, channels in gated.open_channels().items()
    }
    for layer in gated.graph.layers:
        sliced = _slice_leaf(compact.get_submodule(layer.module), layer, open_channels)
        compact.set_submodule(layer.module, sliced)
    return compact


@torch.no_grad()
def _slice_leaf(leaf: nn.Module, layer: Layer, open_channels: dict[str, Tensor]) -> nn.Module:
    read = _kept(layer.in_group, layer.in_channels, open_channels)
    written = _kept(layer.out_group, layer.out_channels, open_channels)
    if isinstance(leaf, RepVGGBlock):
        sliced: nn.Module = _slice_repvgg_block(leaf, read, written)
    elif isinstance(leaf, PlainBlock):
        sliced = PlainBlock(len(read), len(written), leaf.stride)
        sliced.conv.weight.copy_(leaf.conv.weight[written][:, read])
        assert sliced.conv.bias is not None
        assert leaf.conv.bias is not None
        sliced.conv.bias.copy_(leaf.conv.bias[written])
    elif isinstance(leaf, nn.Linear):
        sliced = nn.Linear(len(read), len(written), leaf.bias is not None)
        sliced.weight.data = leaf.weight[written][:, read].clone()
        if leaf.bias is not None:
            sliced.bias.data = leaf.bias[written].clone()
    else:
        raise TypeError(f"no rule to slice {type(leaf).__name__}")
    parameter = next(leaf.parameters())
    return sliced.to(parameter.device, parameter.dtype).train(leaf.training)


def _kept(group: str | None, size: int, open_channels: dict[str, Tensor]) -> Tensor:
    return torch.arange(size) if group is None else open_channels[group]


def _slice_repvgg_block(block: RepVGGBlock, read: Tensor, written: Tensor) -> RepVGGBlock:
    kept_in = {int(c): k for k, c in enumerate(read)}
    kept_out = {int(c): k for k, c in enumerate(written)}
    joined = list(zip(block.identity_in.tolist(), block.identity_out.tolist(), strict=True))
    shared = [p for p, (i, o) in enumerate(joined) if i in kept_in and o in kept_out]
    orphaned = [p for p, (i, o) in enumerate(joined) if i not in kept_in and o in kept_out]
    pairs = [(kept_in[joined[p][0]], kept_out[joined[p][1]]) for p in shared]
    parameter = block.conv3x3.weight
    sliced = RepVGGBlock(len(read), len(written), block.stride, pairs).to(
        parameter.device, parameter.dtype
    )
    sliced.conv3x3.weight.copy_(block.conv3x3.weight[written][:, read])
    sliced.conv1x1.weight.copy_(block.conv1x1.weight[written][:, read])
    _copy_norm(block.norm3x3, sliced.norm3x3, written)
    _copy_norm(block.norm1x1, sliced.norm1x1, written)
    if block.norm_identity is not None:
        if sliced.norm_identity is not None:
            _copy_norm(block.norm_identity, sliced.norm_identity, torch.tensor(shared))
        for p in orphaned:
            sliced.norm3x3.bias[kept_out[joined[p][1]]] += block.norm_identity.bias[p]
    return sliced


def _copy_norm(source: nn.BatchNorm2d, target: nn.BatchNorm2d, kept: Tensor) -> None:
    target.eps, target.momentum = source.eps, source.momentum
    target.weight.copy_(source.weight[kept])
    target.bias.copy_(source.bias[kept])
    assert source.running_mean is not None
    assert target.running_mean is not None
    assert source.running_var is not None
    assert target.running_var is not None
    target.running_mean.copy_(source.running_mean[kept])
    target.running_var.copy_(source.running_var[kept])
    if source.num_batches_tracked is not None and target.num_batches_tracked is not None:
        target.num_batches_tracked.copy_(source.num_batches_tracked)
