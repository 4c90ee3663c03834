from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from pas_trainer import reparameterize
from search_space import (
    ChannelGraph,
    ChannelGroup,
    Product,
    Width,
    build_supernet,
    slice_network,
)

RESOURCES = ("macs", "num_params")  # linear in every single width
GraphOf = Callable[..., ChannelGraph]

IMAGENET_CLASSES = 1000
B1_CLASSIFIER_MACS = 2048 * IMAGENET_CLASSES
B1_AT_4_GMACS = (
    [11],
    [29, 32, 27, 23],
    [68, 57, 55, 65, 79, 79],
    [208, 198, 193, 175, 201, 240, 254, 323, 357, 378, 412, 442, 483, 496, 510, 487],
    [2048],
)
B1_AT_2_GMACS = (
    [8],
    [20, 16, 15, 10],
    [49, 41, 36, 34, 39, 31],
    [125, 107, 102, 97, 106, 123, 127, 170, 196, 202, 232, 269, 315, 425, 475, 450],
    [2048],
)


def _named(stages: tuple[list[int], ...]) -> dict[str, int]:
    return {f"stages.{i}.{j}": w for i, stage in enumerate(stages) for j, w in enumerate(stage)}


def _measured(
    name: str, graph: ChannelGraph, image_size: int, channels: Mapping[str, list[int]]
) -> tuple[int, int]:
    """FLOPs by torch's own counter and parameters of the network that really runs."""
    images = torch.empty(1, 3, image_size, image_size, device="meta")
    with torch.device("meta"):
        model = build_supernet(name, 10)
    compact = reparameterize(slice_network(model, graph, channels))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        compact.eval()(images)
    return counter.get_total_flops(), sum(p.numel() for p in compact.parameters())


def test_repvgg_b1_at_full_width(graph_of: GraphOf) -> None:
    macs = graph_of("repvgg_b1", IMAGENET_CLASSES).count_macs()
    assert round((macs - B1_CLASSIFIER_MACS) / 1e9, 2) == 11.81


@pytest.mark.parametrize(
    ("stages", "gmacs", "million_weights"),
    [(B1_AT_4_GMACS, 4.04, 28.3), (B1_AT_2_GMACS, 2.10, 18.7)],
)
def test_published_searched_widths_of_b1(
    graph_of: GraphOf, stages: tuple[list[int], ...], gmacs: float, million_weights: float
) -> None:
    graph, widths = graph_of("repvgg_b1", IMAGENET_CLASSES), _named(stages)
    assert set(widths) == set(graph.full_widths())
    assert round(graph.count_macs(widths) / 1e9, 2) == gmacs
    biases = sum(widths.values()) + IMAGENET_CLASSES
    assert round((graph.count_params(widths) - biases) / 1e6, 1) == million_weights


@pytest.mark.parametrize(
    ("name", "gmacs", "million_params"),
    [
        ("repvgg_a0", 1.4, 8.30),
        ("repvgg_a1", 2.4, 12.78),
        ("repvgg_b1", 11.8, 51.82),
        ("repvgg_b3", 26.2, 110.96),
    ],
)
def test_costs_published_with_repvgg(
    graph_of: GraphOf, name: str, gmacs: float, million_params: float
) -> None:
    graph = graph_of(name, IMAGENET_CLASSES)
    assert graph.count_macs() / 1e9 == pytest.approx(gmacs, abs=0.06)
    assert graph.count_params() / 1e6 == pytest.approx(million_params, abs=0.02)


@pytest.mark.parametrize(
    ("name", "image_size"),
    [("repvgg_tiny", 8), ("repvgg_small", 32), ("repvgg_small", 27), ("repvgg_a0", 224)],
)
def test_full_network_costs_what_it_runs(graph_of: GraphOf, name: str, image_size: int) -> None:
    graph = graph_of(name, 10, image_size)
    channels = {group: list(range(size)) for group, size in graph.full_widths().items()}
    flops, num_params = _measured(name, graph, image_size, channels)
    assert flops == 2 * graph.count_macs()
    assert num_params == graph.count_params()


@settings(deadline=None, max_examples=8)
@given(data=st.data())
@pytest.mark.parametrize(
    ("name", "image_size"), [("repvgg_tiny", 8), ("repvgg_small", 19), ("repvgg_a0", 224)]
)
def test_compact_network_costs_what_it_runs(
    graph_of: GraphOf, name: str, image_size: int, data: st.DataObject
) -> None:
    graph = graph_of(name, 10, image_size)
    channels = {}
    for group, size in graph.full_widths().items():
        width = data.draw(st.integers(1, size), label=group)
        first = data.draw(st.integers(0, size - width))
        channels[group] = list(range(first, first + width))
    widths = {group: len(kept) for group, kept in channels.items()}
    flops, num_params = _measured(name, graph, image_size, channels)
    assert flops == 2 * graph.count_macs(widths)
    assert num_params == graph.count_params(widths)


def _widths_of(graph: ChannelGraph) -> st.SearchStrategy[dict[str, int]]:
    return st.fixed_dictionaries({g.name: st.integers(1, g.size) for g in graph.groups})


@settings(deadline=None, max_examples=30)
@given(data=st.data())
@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("name", ["repvgg_tiny", "repvgg_small", "repvgg_b1"])
def test_tensors_and_integers_share_one_formula(
    graph_of: GraphOf, name: str, resource: str, data: st.DataObject
) -> None:
    graph = graph_of(name)
    widths = data.draw(_widths_of(graph))
    tensors = {n: torch.tensor(w, dtype=torch.float64) for n, w in widths.items()}
    for tensor in tensors.values():
        tensor.requires_grad_()
    cost = graph.count(resource, tensors)
    assert cost.item() == graph.count(resource, widths)

    # The cost is linear in each single width, so that a difference of one channel is exact.
    gradients = torch.autograd.grad(cost, list(tensors.values()))
    for group, gradient in zip(widths, gradients, strict=True):
        wider = {**widths, group: widths[group] + 1}
        assert gradient.item() == graph.count(resource, wider) - graph.count(resource, widths)


A, B = Width(0, (("a", 1),)), Width(0, (("b", 1),))


def _hand_made() -> ChannelGraph:
    """3 -> a (4, 3x3 on 5x5 with bias) -> b (6, 1x1 on 5x5) -> linear to 2 with bias."""
    return ChannelGraph(
        (ChannelGroup("a", 4, ("a",), ("b",)), ChannelGroup("b", 6, ("b",), ("fc",))),
        [
            Product("a", 9 * 25, Width(3), A),
            Product("b", 25, A, B),
            Product("fc", 1, B, Width(2)),
        ],
        [
            Product("a.weight", 9, Width(3), A),
            Product("a.bias", 1, A),
            Product("b.weight", 1, A, B),
            Product("fc.weight", 1, B, Width(2)),
            Product("fc.bias", 2),
        ],
        [Width(300, (("a", 100),)), Width(0, (("a", 100), ("b", 100)))],
    )


def test_costs_of_a_hand_made_graph() -> None:
    graph = _hand_made()
    assert graph.count_macs() == 3 * 4 * 225 + 4 * 6 * 25 + 6 * 2
    assert graph.count_params() == (3 * 4 * 9 + 4) + 4 * 6 + (6 * 2 + 2)
    assert graph.count_macs({"a": 1, "b": 5}) == 3 * 225 + 5 * 25 + 5 * 2
    assert graph.count_params({"a": 1, "b": 5}) == (3 * 9 + 1) + 5 + (5 * 2 + 2)
    assert isinstance(graph.count_macs(), int)


def test_missing_groups_are_full() -> None:
    graph = _hand_made()
    assert graph.count_macs({"a": 2}) == graph.count_macs({"a": 2, "b": 6})
    assert graph.count("macs") == graph.count_macs(graph.full_widths())
    assert graph.count("num_params", {"b": 1}) == graph.count_params({"a": 4, "b": 1})


def test_unknown_resource_is_named() -> None:
    with pytest.raises(ValueError, match="unknown resource 'flops'; known: macs, num_params"):
        _hand_made().count("flops")


def test_full_widths_is_a_copy() -> None:
    graph = _hand_made()
    graph.full_widths()["a"] = 1
    assert graph.full_widths() == {"a": 4, "b": 6}


def _uniform(graph: ChannelGraph) -> Iterator[dict[str, int]]:
    """Every uniform network, by brute force over shares in 240ths (all of 1/16, 1/24 ... 1/5)."""
    for share in range(1, 241):
        yield {g.name: max(1, g.size * share // 240) for g in graph.groups}


@given(share=st.floats(0, 1.2), resource=st.sampled_from(RESOURCES))
def test_uniform_widths_are_the_largest_within_the_limit(share: float, resource: str) -> None:
    graph = _hand_made()
    limit = int(share * graph.count(resource))
    costs = [graph.count(resource, w) for w in _uniform(graph)]
    within = [cost for cost in costs if cost <= limit]
    if within:
        assert graph.count(resource, graph.uniform_widths(resource, limit)) == max(within)
    else:
        with pytest.raises(ValueError, match=f"no uniform network has {resource} <= {limit}"):
            graph.uniform_widths(resource, limit)


def test_repvgg_groups_know_who_writes_and_reads_them(graph_of: GraphOf) -> None:
    groups = graph_of("repvgg_tiny").groups
    assert [(g.name, g.size, g.producers, g.consumers) for g in groups] == [
        ("stages.0.0", 16, ("stages.0.0",), ("stages.1.0",)),
        ("stages.1.0", 32, ("stages.1.0",), ("stages.1.1",)),
        ("stages.1.1", 32, ("stages.1.1",), ("stages.2.0",)),
        ("stages.2.0", 64, ("stages.2.0",), ("stages.2.1",)),
        ("stages.2.1", 64, ("stages.2.1",), ("classifier",)),
    ]


def test_image_size_scales_macs_alone(graph_of: GraphOf) -> None:
    small, large = graph_of("repvgg_tiny", 10, 8), graph_of("repvgg_tiny", 10, 16)
    head = 64 * 10
    assert large.count_macs() - head == 4 * (small.count_macs() - head)
    assert large.count_params() == small.count_params()


def test_a_layer_of_fixed_channels_is_counted_in_full() -> None:
    graph = ChannelGraph((), [Product("stem", 9 * 4, Width(3), Width(8))])
    assert graph.count_macs() == 3 * 8 * 9 * 4
    assert graph.searchable_share() == 0


def test_activation_bytes_are_those_of_the_worst_moment() -> None:
    graph = _hand_made()
    assert graph.count("activation_bytes") == 1000
    assert graph.count("activation_bytes", {"b": 1}) == 700
    assert graph.count("activation_bytes", {"a": 1, "b": 1}) == 400


def test_searchable_share_leaves_out_fixed_layers() -> None:
    ours = _hand_made()
    fixed = Product("tail", 7, Width(10), Width(20))
    graph = ChannelGraph(ours.groups, [*ours.macs_by_layer, fixed])
    assert graph.searchable_share() == pytest.approx(ours.count_macs() / graph.count_macs())


def test_latency_needs_a_table_and_is_a_float() -> None:
    graph = _hand_made()
    with pytest.raises(ValueError, match="latency_ms needs a measured table; see"):
        graph.count("latency_ms")
    measured = graph.with_latency(lambda widths: widths.sum(-1) / 8)
    assert measured.count("latency_ms", {"a": 3, "b": 6}) == 9 / 8
    assert measured.count_macs() == graph.count_macs()
    with pytest.raises(ValueError, match="latency_ms"):
        graph.count("latency_ms")


def test_open_units_are_counted_over_all_groups() -> None:
    mask = _hand_made().open_units({"a": [0, 3], "b": [5]})
    assert mask.nonzero().flatten().tolist() == [0, 3, 9]


def test_unknown_groups_are_named_with_a_close_match() -> None:
    wrong = {"a": [0], "b": [0], "aa": [0]}
    with pytest.raises(ValueError, match=r"at odds: 'aa'; did you mean 'a'\?"):
        _hand_made().open_units(wrong)
