from __future__ import annotations

import pytest
import torch
from torch import nn

from pas_trainer import GatedNetwork, attach_gates
from search_space import RepVGGVariant, trace_channels
from search_space.repvgg import RepVGG


def randomize_norms(network: nn.Module, generator: torch.Generator) -> None:
    """Give every batch-norm random statistics and affine parameters."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            shape = module.weight.shape
            with torch.no_grad():
                module.weight.copy_(torch.rand(shape, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(shape, generator=generator) * 0.3)
                module.running_mean.copy_(torch.randn(shape, generator=generator) * 0.5)
                module.running_var.copy_(torch.rand(shape, generator=generator) + 0.5)


def close_at_random(gated: GatedNetwork, generator: torch.Generator) -> None:
    """Draw each gate's scores; at least one channel per group stays open by the gate's own rule."""
    with torch.no_grad():
        for gate in gated.gates.values():
            gate.scores.copy_(torch.rand(gate.scores.shape, generator=generator))


@pytest.fixture
def make_gated():
    """Build a small float64 network in eval mode with random statistics and random gates."""

    def make(seed: int, widths=(5, 6, 7), depths=(1, 3, 2), strides=(1, 2, 2)) -> GatedNetwork:
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        network = RepVGG(RepVGGVariant(depths, widths, strides), 4, 3).double().eval()
        randomize_norms(network, generator)
        gated = (
            attach_gates(network, trace_channels(network, torch.empty(1, 3, 8, 8))).double().eval()
        )
        close_at_random(gated, generator)
        return gated

    return make
