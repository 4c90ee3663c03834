from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pas_trainer import attach_gates
from pas_trainer.gated_reads import gated_reads, layer_weights
from search_space import Axis, trace_channels


def chain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(10),
        nn.Tanh(),
        nn.Linear(10, 2),
    )


@pytest.mark.parametrize("size", [1, 2, 16])
@pytest.mark.parametrize("batch", [1, 64])
def test_outputs_and_gradients_are_those_of_gated_activations(size, batch):
    """Small images and batches scale what is read, large ones the weights."""
    torch.manual_seed(0)
    x = torch.randn(batch, 3, size, size, dtype=torch.float64)
    network = chain().double()
    network(x)
    gated = attach_gates(network, trace_channels(network, x))
    masks = {}
    for name, gate in gated.double().gates.items():
        gate.scores.data.uniform_()
        masks[name] = gate().detach().requires_grad_()
    reference = copy.deepcopy(network)
    y = F.relu(reference[0](x)) * masks["0"].view(-1, 1, 1)
    y = F.relu(reference[2](y)) * masks["2"].view(-1, 1, 1)
    y = torch.tanh(reference[5](y.flatten(1))) * masks["5"]
    expected, got = reference[7](y), gated(x)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    expected.square().sum().backward()
    got.square().sum().backward()
    for name, mask in masks.items():
        torch.testing.assert_close(gated.gates[name].scores.grad, mask.grad, rtol=1e-9, atol=1e-12)
    for name, parameter in reference.named_parameters():
        own = gated.network.get_parameter(name).grad
        torch.testing.assert_close(own, parameter.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("x", [torch.randn(2, 5), torch.randn(40, 5)])
def test_however_a_weight_is_read_it_is_gated(x):
    weight, factor = torch.randn(7, 5), torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0])
    expected = (x * factor) @ weight.T
    with gated_reads({id(weight): factor}):
        ways = [
            F.linear(x, weight),
            F.linear(x, weight=weight),
            F.linear(input=x, weight=weight),
            x @ weight.T,
            torch.matmul(x, weight.t()),
        ]
    for got in ways:
        torch.testing.assert_close(got, expected)


def test_other_weights_are_left_alone():
    x, weight, other = torch.randn(2, 3, 4, 4), torch.randn(5, 3, 1, 1), torch.randn(5, 3, 1, 1)
    with gated_reads({id(other): torch.zeros(3)}):
        got = F.conv2d(x, weight)
    assert torch.equal(got, F.conv2d(x, weight))


def test_only_ordinary_layers_with_a_weight_of_their_own_are_scaled_in_the_call():
    network = nn.ModuleDict(
        {
            "plain": nn.Conv2d(4, 4, 1),
            "linear": nn.Linear(4, 4),
            "twice": nn.Linear(4, 4),
            "grouped": nn.Conv2d(4, 4, 1, groups=2),
            "transposed": nn.ConvTranspose2d(4, 4, 1),
            "a": nn.Conv2d(4, 4, 1),
            "b": nn.Conv2d(4, 4, 1),
            "norm": nn.BatchNorm2d(4),
        }
    )
    network["b"].weight = network["a"].weight
    axes = [Axis(f"{name}.weight", 1, torch.arange(4)) for name in network if name != "norm"]
    axes += [Axis("twice.weight", 0, torch.arange(4)), Axis("norm.weight", 0, torch.arange(4))]
    assert layer_weights(network, axes) == {"plain.weight", "linear.weight"}
