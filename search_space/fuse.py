"""Structural reparameterization: every reparameterizable block becomes one plain convolution."""

from __future__ import annotations

from typing import TypeVar, overload

from torch import nn

from search_space.copies import copy_network
from search_space.reparam import PlainBlock, ReparamBlock

Network = TypeVar("Network", bound=nn.Module)


@overload
def reparameterize(network: ReparamBlock) -> PlainBlock: ...
@overload
def reparameterize(network: Network) -> Network: ...
def reparameterize(network: nn.Module) -> nn.Module:
    """Return the deploy form in eval mode: equal outputs, plain convolutions; input untouched.

    Args:
        network: any network; blocks may sit at any depth, at several places, or be the network.
    """
    if isinstance(network, ReparamBlock):
        return network.fused()
    plain = copy_network(network).eval()
    fused: dict[ReparamBlock, PlainBlock] = {}
    modules = plain.named_modules(remove_duplicate=False)
    for name, block in [(n, m) for n, m in modules if isinstance(m, ReparamBlock)]:
        if block not in fused:
            fused[block] = block.fused()
        plain.set_submodule(name, fused[block])
    return plain
