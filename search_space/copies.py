"""Copies of networks that may have been trained."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import nn

from search_space.fakes import leaves

Network = TypeVar("Network", bound=nn.Module)


def copy_network(network: Network) -> Network:
    """Return a deep copy; what a forward pass has left on modules is detached from its graph.

    Such tensors (an auxiliary loss kept as an attribute) cannot be copied as they are.

    Args:
        network: stays as it is.
    """
    memo: dict[int, Any] = {}
    for module in network.modules():
        for tensor in leaves(vars(module)):
            if not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
    return copy.deepcopy(network, memo)
