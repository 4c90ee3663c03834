from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pas_trainer import attach_gates, reparameterize, slice_channels
from search_space import (
    Architecture,
    PlainBlock,
    RepVGGVariant,
    build_architecture,
    build_supernet,
    trace_channels,
)
from search_space.repvgg import RepVGG


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(((a - b).abs().max() / b.abs().max()).detach())


def check_chain(gated) -> None:
    """Gated = sliced = reparameterized, below 1e-9, in float64 and eval mode."""
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    before = copy.deepcopy(gated.state_dict())
    with torch.no_grad():
        expected = gated(x)
        compact = slice_channels(gated)
        plain = reparameterize(compact)
        assert relative_difference(compact(x), expected) < 1e-9
        assert relative_difference(plain(x), expected) < 1e-9
    for name, tensor in gated.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    blocks = [m for m in plain.modules() if isinstance(m, PlainBlock)]
    widths = {n: int(g.open_mask().sum()) for n, g in gated.gates.items()}
    assert [b.out_channels for b in blocks] == list(widths.values())
    assert sum(p.numel() for p in plain.parameters()) == gated.graph.count_params(widths)


@pytest.mark.parametrize("seed", range(5))
def test_gated_equals_sliced_equals_reparameterized(make_gated, seed):
    check_chain(make_gated(seed))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    depth=st.integers(1, 3),
)
def test_any_small_network(seed, widths, depth):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    strides = (1, 2, 2)[: len(widths)]
    variant = RepVGGVariant((depth,) * len(widths), tuple(widths), strides, 8)
    network = RepVGG(variant, 4, 3).double().eval()
    for norm in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.copy_(torch.randn(norm.running_mean.shape, generator=generator))
        norm.running_var.copy_(torch.rand(norm.running_var.shape, generator=generator) + 0.5)
        norm.bias.data.copy_(torch.randn(norm.bias.shape, generator=generator))
    gated = attach_gates(network, trace_channels(network, torch.empty(1, 3, 8, 8))).double().eval()
    for gate in gated.gates.values():
        gate.scores.data.copy_(torch.rand(gate.scores.shape, generator=generator))
    check_chain(gated)


def test_sliced_and_gated_agree_in_training_mode_too(make_gated):
    gated = make_gated(2).train()
    compact = slice_channels(gated)
    x = torch.randn(8, 3, 8, 8, dtype=torch.float64)
    assert relative_difference(compact(x), gated(x)) < 1e-9


def test_the_compact_network_trains(make_gated):
    compact = slice_channels(make_gated(4)).train()
    compact(torch.randn(8, 3, 8, 8, dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None for p in compact.parameters())


def test_both_forms_are_rebuilt_from_the_architecture(make_gated):
    torch.manual_seed(0)
    network = build_supernet("repvgg_tiny", 3, 1).double().eval()
    gated = attach_gates(network, trace_channels(network, torch.empty(1, 1, 8, 8))).eval()
    generator = torch.Generator().manual_seed(1)
    for gate in gated.gates.values():
        gate.scores.data.copy_(torch.rand(gate.scores.shape, generator=generator))
    architecture = Architecture(
        supernet="repvgg_tiny",
        options={},
        in_channels=1,
        image_size=8,
        mean=[0.0],
        std=[1.0],
        classes=["a", "b", "c"],
        open_channels=gated.open_channels(),
    )
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    compact = slice_channels(gated)
    for deploy, form in ((False, compact), (True, reparameterize(compact))):
        rebuilt = build_architecture(architecture, deploy=deploy).double().eval()
        rebuilt.load_state_dict(form.state_dict())
        assert torch.equal(rebuilt(x), form(x))
