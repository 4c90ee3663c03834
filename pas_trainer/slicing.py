"""From a gated network to a compact one."""

from __future__ import annotations

from torch import nn

from pas_trainer.gates import GatedNetwork
from search_space import slice_network


def slice_channels(gated: GatedNetwork) -> nn.Module:
    """Return the compact network, still with its training branches; ``gated`` is untouched.

    Equal outputs in eval mode. In training mode equal too, up to the batch statistics of
    identity branches, which follow the same channels.
    """
    return slice_network(gated.network, gated.graph, gated.open_channels())
