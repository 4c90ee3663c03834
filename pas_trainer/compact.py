"""A searched network, rebuilt from the record of its architecture."""

from __future__ import annotations

import torch
from torch import nn

from pas_trainer.supernet import trace_supernet
from pas_trainer.tasks import AboutArchitecture, task_of
from search_space import Architecture, reparameterize, slice_network


def build_compact(architecture: Architecture, *, deploy: bool = True) -> nn.Module:
    """Rebuild a searched network, weights at random; the random state is left as it was.

    The supernet is built, traced and sliced as the search did it. ``import:`` supernets run the
    code they name.

    Args:
        architecture: what the search found.
        deploy: reparameterized, or else the sliced network with its training branches.

    Raises:
        ValueError: the task or supernet is unknown, or ``open_channels`` does not fit it.
    """
    task, about = task_of(architecture), AboutArchitecture(architecture)
    with torch.random.fork_rng(devices=[]):
        supernet = task.build(architecture.supernet, architecture.options, about)
        graph = trace_supernet(
            supernet, task, about, scope=architecture.scope, pinned=architecture.pinned
        )
        compact = slice_network(supernet, graph, architecture.open_channels)
        return reparameterize(compact) if deploy else compact
