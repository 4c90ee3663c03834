from __future__ import annotations

import copy

import pytest
import torch
from exactness import relative_difference
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pas_trainer import attach_gates, build_compact, reparameterize, slice_channels
from search_space import (
    Architecture,
    PlainBlock,
    RepVGGVariant,
    build_supernet,
    slice_network,
    trace_channels,
)
from search_space.repvgg import RepVGG


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
    widths=st.lists(st.integers(2, 9), min_size=1, max_size=3),
    depth=st.integers(1, 3),
)
def test_any_small_network(seed, widths, depth):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    strides = (1, 2, 2)[: len(widths)]
    variant = RepVGGVariant((depth,) * len(widths), tuple(widths), strides)
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


def test_slicing_by_channel_lists_is_slicing_by_gates(make_gated):
    gated = make_gated(5)
    before = copy.deepcopy(gated.network.state_dict())
    by_lists = slice_network(gated.network, gated.graph, gated.open_channels())
    by_gates = slice_channels(gated)
    assert all(torch.equal(t, by_gates.state_dict()[n]) for n, t in by_lists.state_dict().items())
    assert all(torch.equal(t, before[n]) for n, t in gated.network.state_dict().items())


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
        rebuilt = build_compact(architecture, deploy=deploy).double().eval()
        rebuilt.load_state_dict(form.state_dict())
        assert torch.equal(rebuilt(x), form(x))


BAD_CHANNELS = [
    ({"0": [0, 1]}, "must name every channel group; at odds: '2'$"),
    ({"0": [0], "2": [0], "2.0": [0]}, "at odds: '2.0'"),
    ({"0": [0], "2": []}, "of group 2 must ascend within 0..3"),
    ({"0": [1, 0], "2": [0]}, "of group 0 must ascend within 0..4"),
    ({"0": [0, 0], "2": [0]}, "of group 0 must ascend within 0..4"),
    ({"0": [0, 5], "2": [0]}, "of group 0 must ascend within 0..4"),
    ({"0": [-1, 0], "2": [0]}, "of group 0 must ascend within 0..4"),
]


@pytest.mark.parametrize(("channels", "message"), BAD_CHANNELS)
def test_impossible_channels_are_refused(channels, message):
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 4, 1), nn.Conv2d(4, 2, 1))
    graph = trace_channels(model, torch.empty(1, 3, 8, 8))
    with pytest.raises(ValueError, match=message):
        slice_network(model, graph, channels)


def test_sizes_of_modules_follow_their_weights():
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.PReLU(6), nn.Conv2d(6, 6, 3, groups=6),
        nn.ConvTranspose2d(6, 8, 2, groups=2), nn.GroupNorm(2, 8), nn.Conv2d(8, 9, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(9), nn.Linear(9, 2),
    )  # fmt: skip
    graph = trace_channels(model, torch.empty(1, 3, 8, 8))
    assert graph.full_widths() == {"0": 3, "4": 4, "6": 9}
    small = slice_network(model, graph, {"0": [1, 2], "4": [0], "6": [2, 3, 8]})
    conv, norm, prelu, depthwise, transposed, group_norm, last, _, _, layer_norm, linear = small
    assert (conv.in_channels, conv.out_channels, conv.groups) == (3, 4, 1)
    assert norm.num_features == prelu.num_parameters == 4
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (4, 4, 4)
    assert (transposed.in_channels, transposed.out_channels, transposed.groups) == (4, 2, 2)
    assert (group_norm.num_channels, group_norm.num_groups) == (2, 2)
    assert (last.in_channels, last.out_channels) == (2, 3)
    assert layer_norm.normalized_shape == (3,)
    assert (linear.in_features, linear.out_features) == (3, 2)
    assert torch.equal(small[0].weight, model[0].weight[[1, 2, 4, 5]])
    assert torch.equal(small[6].weight[:, 0], model[6].weight[[2, 3, 8]][:, 0])
    assert not any(p is q for p in small.parameters() for q in model.parameters())


def test_frozen_parameters_stay_frozen():
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 2, 1))
    model[0].weight.requires_grad_(False)
    graph = trace_channels(model, torch.empty(1, 3, 8, 8))
    small = slice_network(model, graph, {"0": [1, 3]})
    assert [p.requires_grad for p in small.parameters()] == [False, True, True, True]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_few_channels_into_a_strided_pointwise_convolution(memory_format):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 9, 1), nn.ReLU(), nn.Conv2d(9, 6, 1, stride=2)).double()
    model.append(nn.Conv2d(6, 2, 1).double())
    x = torch.randn(4, 3, 9, 9, dtype=torch.float64).to(memory_format=memory_format)
    graph = trace_channels(model, x)
    small = slice_network(model, graph, {"0": [2, 7], "2": [0, 3, 5]})
    weights = model[2].weight[[0, 3, 5]][:, [2, 7]]
    hidden = torch.relu(model[0](x))[:, [2, 7]]
    expected = torch.nn.functional.conv2d(hidden, weights, model[2].bias[[0, 3, 5]], stride=2)
    torch.testing.assert_close(small[:3](x), expected, rtol=1e-12, atol=1e-12)
    small(x).sum().backward()
    assert small[2].weight.grad.shape == (3, 2, 1, 1)
