"""A sliced network is searched on: its graph, its gates and its slices."""

from __future__ import annotations

import random

import pytest
import torch
from exactness import randomize, relative_difference

from pas_trainer import attach_gates, slice_channels
from search_space import build_supernet, narrow_graph, slice_network, trace_channels

NETWORKS = [
    ("repvgg_tiny", 8),
    ("mobileone_small", 32),
    ("torchvision:resnet18", 32),
    ("torchvision:mobilenet_v3_small", 64),  # depth-wise, squeeze-and-excitation
    ("torchvision:densenet121", 64),  # concatenations
    ("torchvision:regnet_y_400mf", 64),  # grouped convolutions
    ("torchvision:shufflenet_v2_x0_5", 64),  # code that counts on widths
    ("torchvision:swin_t", 64),  # layer norms
]


@pytest.mark.parametrize(("name", "size"), NETWORKS)
def test_slicing_twice_is_slicing_once(name: str, size: int) -> None:
    draw, generator = random.Random(0), torch.Generator().manual_seed(0)
    model, images = build_supernet(name, 10).double(), torch.randn(2, 3, size, size).double()
    randomize(model, generator)
    graph = trace_channels(model.eval(), images[:1])
    first = {g.name: sorted(draw.sample(range(g.size), -(-2 * g.size // 3))) for g in graph.groups}
    once = slice_network(model, graph, first).eval()
    narrow = narrow_graph(graph, once, first)
    assert narrow.full_widths() == {group: len(units) for group, units in first.items()}

    gated = attach_gates(once, narrow).eval()
    for group in narrow.groups:
        mask = torch.zeros(group.size, dtype=torch.bool)
        mask[draw.sample(range(group.size), -(-group.size // 2))] = True
        gated.gates[group.name].set_open(mask)
    twice = slice_channels(gated).eval()
    chosen = gated.open_channels()
    both = {name: [first[name][i] for i in units] for name, units in chosen.items()}
    direct = slice_network(model, graph, both).eval()

    with torch.no_grad():
        expected = direct(images)
        assert relative_difference(twice(images), expected) < 1e-10
        assert relative_difference(gated(images), expected) < 1e-10
    shapes = {key: tensor.shape for key, tensor in direct.state_dict().items()}
    assert {key: tensor.shape for key, tensor in twice.state_dict().items()} == shapes
    widths = {group: len(units) for group, units in chosen.items()}
    for resource in ("macs", "num_params", "activation_bytes"):
        assert narrow.count(resource, widths) == graph.count(resource, widths)


def test_an_identity_that_loses_all_its_pairs_reads_nothing() -> None:
    """The second block keeps none of the channels that its input keeps."""
    model = build_supernet("repvgg_tiny", 10)
    graph = trace_channels(model, torch.empty(1, 3, 8, 8))
    kept = {group.name: list(range(group.size // 2)) for group in graph.groups}
    kept["stages.1.1"] = list(range(16, 32))
    once = slice_network(model, graph, kept)
    narrow = narrow_graph(graph, once, kept)
    assert once.get_submodule("stages.1.1").norm_identity is None
    readers = {axis.tensor for axis in narrow.layout.readers}
    assert "stages.1.1.conv3x3.weight" in readers
    assert "stages.1.1.norm_identity.weight" not in readers
    attach_gates(once, narrow)(torch.rand(2, 3, 8, 8))


def test_units_that_are_not_there_are_refused() -> None:
    model = build_supernet("repvgg_tiny", 10)
    graph = trace_channels(model, torch.empty(1, 3, 8, 8))
    kept = {group.name: [0] for group in graph.groups}
    with pytest.raises(ValueError, match="must ascend within"):
        narrow_graph(graph, slice_network(model, graph, kept), kept | {"stages.1.1": [99]})
