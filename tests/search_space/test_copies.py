"""Networks that keep what a forward pass has computed are copied, sliced and fused."""

from __future__ import annotations

import torch
from torch import nn

from pas_trainer import attach_gates, reparameterize, slice_channels
from search_space import copy_network, trace_channels


class KeepsAux(nn.Module):
    """As networks with an auxiliary loss do: what it has computed stays on the module."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.classifier = nn.Linear(8, 10)

    def forward(self, x):
        y = torch.relu(self.second(torch.relu(self.first(x))))
        if self.training:
            self.aux_out = y.square().mean()
            self.seen = {"features": [y]}
        return self.classifier(y.mean((2, 3)))


def test_what_a_forward_pass_left_is_copied_without_its_graph():
    network = KeepsAux()
    images = torch.randn(2, 1, 8, 8)
    network(images).sum().backward()
    copied = copy_network(network)
    assert network.aux_out.requires_grad
    assert not copied.aux_out.requires_grad
    assert torch.equal(copied.aux_out, network.aux_out)
    assert torch.equal(copied.seen["features"][0], network.seen["features"][0])
    assert copied.first.weight is not network.first.weight
    assert torch.equal(copied.eval()(images), network.eval()(images))


def test_a_network_that_keeps_an_auxiliary_loss_is_sliced_and_fused():
    network, images = KeepsAux(), torch.randn(2, 1, 8, 8)
    gated = attach_gates(network, trace_channels(network, images))
    gated.train()(images).sum().backward()
    compact = slice_channels(gated)
    compact.train()(images).sum().backward()
    attach_gates(compact, trace_channels(KeepsAux(), images))
    fused = reparameterize(compact)
    torch.testing.assert_close(fused(images), gated.eval()(images))
