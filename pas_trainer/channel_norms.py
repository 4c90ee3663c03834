"""How large the weights are that write each channel: what simple pruning goes by."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search_space import ChannelGraph, ReparamBlock


@torch.no_grad()
def channel_norms(network: nn.Module, graph: ChannelGraph) -> dict[str, Tensor]:
    """Return the L1 norm of the weights that write each unit, float64 (size,) by group.

    Weights of all producers of a unit are added up; norms and biases do not count.

    Args:
        network: the network that ``graph`` was traced from, or a copy of it.
        graph: its channel graph.
    """
    sizes = [group.size for group in graph.groups]
    norms = torch.zeros(sum(sizes), dtype=torch.float64)

    def add(weight: Tensor, dim: int, units: Tensor) -> None:
        entries = weight.detach().cpu().double().abs().transpose(0, dim).flatten(1).sum(1)
        searched = units >= 0
        norms.index_add_(0, units[searched], entries[searched])

    parameters = dict(network.named_parameters(remove_duplicate=False))
    read = {(axis.tensor, axis.dim) for axis in graph.layout.readers}
    for axis in graph.layout.axes:
        weight = parameters.get(axis.tensor)
        if weight is not None and weight.ndim > 1 and (axis.tensor, axis.dim) not in read:
            add(weight, axis.dim, axis.units)
    for channels in graph.layout.blocks:
        block = network.get_submodule(channels.module)
        assert isinstance(block, ReparamBlock)
        for name in block.branch_names:
            add(block.branch(name)[0].weight, 0, channels.written)
    names = [group.name for group in graph.groups]
    return dict(zip(names, torch.split(norms, sizes), strict=True))
