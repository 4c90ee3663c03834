from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from search_space import (
    ChannelGraph,
    PlainBlock,
    RepVGGBlock,
    build_supernet,
    trace_channels,
)

IMAGES = torch.empty(2, 3, 16, 16, device="meta")


class Chain(nn.Module):
    """Blocks a, b and c of 8 channels, something between b and c, then a linear classifier."""

    def __init__(self, between: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.a, self.b, self.c = RepVGGBlock(3, 8), RepVGGBlock(8, 8), RepVGGBlock(8, 8)
        self.between = between or nn.Identity()
        self.pool, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4)

    def features(self, x: Tensor) -> Tensor:
        return self.c(self.between(self.b(self.a(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + torch.ones(8, 1, 1)


class Residual(Chain):
    def features(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.c(self.b(y) + y)


class Recurrent(Chain):
    def features(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.b(self.a(x))))


class TwoReaders(Chain):
    """Both b and c read a."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        self_b = self.classifier(self.pool(self.b(y)).flatten(1))
        return self_b + self.classifier(self.pool(self.c(y)).flatten(1))


class Forked(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(8, 5, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.a(x)
        heads = [torch.flatten(self.pool(block(y)), 1) for block in (self.b, self.c)]
        return self.classifier(heads[0]), self.other(heads[1])


def _names(graph: ChannelGraph) -> list[str]:
    return [group.name for group in graph.groups]


def _leaves(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def test_chain_is_searchable_in_every_block() -> None:
    graph = trace_channels(Chain(), IMAGES)
    assert [(g.name, g.consumers) for g in graph.groups] == [
        ("a", ("b",)),
        ("b", ("c",)),
        ("c", ("classifier",)),
    ]
    assert graph.unsupported_ops() == ()
    assert graph.count_macs() == 256 * 9 * (3 * 8 + 8 * 8 + 8 * 8) + 8 * 4


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_untouched(training: bool) -> None:
    torch.manual_seed(0)
    model = build_supernet("repvgg_tiny", 10).train(training)
    model.stages[1].train(not training)  # say, a stage whose statistics are frozen
    modes = [m.training for m in model.modules()]
    before = {name: (tensor, tensor.clone()) for name, tensor in _leaves(model)}
    modules = dict(model.named_modules())
    trace_channels(model, torch.empty(2, 3, 8, 8))
    assert [m.training for m in model.modules()] == modes
    assert dict(model.named_modules()) == modules
    after = dict(_leaves(model))
    assert after.keys() == before.keys()
    for name, (tensor, value) in before.items():
        assert after[name] is tensor
        assert torch.equal(tensor, value)
        assert tensor.device.type == "cpu"
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_failed_trace_leaves_the_network_untouched() -> None:
    model = Chain(nn.Linear(7, 7))
    model.b.eval()
    modes = [m.training for m in model.modules()]
    with pytest.raises(RuntimeError):
        trace_channels(model, IMAGES)
    assert [m.training for m in model.modules()] == modes


class _RealResults(TorchDispatchMode):
    """Collects operations that compute numbers, that is, return tensors off the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        if any(t.device.type != "meta" and t.numel() > 1 for t in tensors):
            self.found.append(str(func))
        return result


def test_nothing_is_computed() -> None:
    model, images = build_supernet("repvgg_tiny", 10), torch.empty(2, 3, 8, 8)
    with _RealResults() as real:
        trace_channels(model, images)
    # Detaching makes a view, no numbers.
    assert set(real.found) <= {"aten.detach.default"}
    with _RealResults() as real:
        model(images)
    assert "aten.convolution.default" in real.found


def test_networks_on_the_meta_device_give_the_same_graph() -> None:
    with torch.device("meta"):
        unreal = build_supernet("repvgg_tiny", 10)
    graphs = [trace_channels(m, IMAGES) for m in (unreal, build_supernet("repvgg_tiny", 10))]
    assert graphs[0].groups == graphs[1].groups
    assert graphs[0].layers == graphs[1].layers


def test_batch_size_does_not_count() -> None:
    model = Chain()
    one, many = (trace_channels(model, torch.empty(n, 3, 16, 16)) for n in (1, 64))
    assert one.layers == many.layers


def test_deploy_form_has_the_graph_of_the_training_form() -> None:
    plain = Chain()
    plain.a, plain.b, plain.c = PlainBlock(3, 8), PlainBlock(8, 8), PlainBlock(8, 8)
    ours, theirs = trace_channels(plain, IMAGES), trace_channels(Chain(), IMAGES)
    assert (ours.groups, ours.layers) == (theirs.groups, theirs.layers)


@pytest.mark.parametrize(
    "between",
    [nn.ReLU(), nn.Dropout(0.1), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Sequential(nn.Identity())],
    ids=lambda m: type(m).__name__,
)
def test_operations_that_keep_channels_pass_them_on(between: nn.Module) -> None:
    graph = trace_channels(Chain(between), IMAGES)
    assert _names(graph) == ["a", "b", "c"]
    assert graph.unsupported_ops() == ()


@pytest.mark.parametrize(
    ("between", "reported"),
    [
        (nn.Conv2d(8, 8, 3, padding=1), "Conv2d"),
        (nn.BatchNorm2d(8), "BatchNorm2d"),
        (nn.Linear(16, 16), "Linear"),  # mixes columns of pixels, not channels
        (Doubled(), "mul"),
        (Scaled(), "mul"),
        (torch.sigmoid, "sigmoid"),
    ],
    ids=["conv", "norm", "linear", "custom", "parameter", "function"],
)
def test_operations_without_a_rule_pin_what_reaches_them(
    between: Callable[[Tensor], Tensor], reported: str
) -> None:
    graph = trace_channels(Chain(between), IMAGES)
    assert _names(graph) == ["a", "c"]
    assert reported in graph.unsupported_ops()[0].reason
    layers = {layer.module: layer for layer in graph.layers}
    assert (layers["b"].in_group, layers["b"].out_group) == ("a", None)
    assert (layers["c"].in_group, layers["c"].out_group) == (None, "c")


def test_unsupported_layer_is_named() -> None:
    op = trace_channels(Chain(nn.Conv2d(8, 8, 1)), IMAGES).unsupported_ops()[0]
    assert (op.module, op.reason) == ("between", "no channel rule for Conv2d")


def test_a_sum_pins_both_terms() -> None:
    graph = trace_channels(Residual(), IMAGES)
    assert _names(graph) == ["c"]
    assert "add" in graph.unsupported_ops()[0].reason


def test_a_block_called_twice_is_pinned_and_reported() -> None:
    graph = trace_channels(Recurrent(), IMAGES)
    assert _names(graph) == ["c"]
    assert {op.module: op.reason for op in graph.unsupported_ops()} == {
        "b": "RepVGGBlock is called more than once"
    }


def test_a_block_under_two_names_is_pinned_and_reported() -> None:
    model = Chain()
    model.b = model.c
    with pytest.raises(ValueError, match="RepVGGBlock is called more than once"):
        trace_channels(model, IMAGES)


def test_a_classifier_called_twice_pins_both_sources() -> None:
    graph = trace_channels(TwoReaders(), IMAGES)
    assert [(g.name, g.consumers) for g in graph.groups] == [("a", ("b", "c"))]


def test_a_group_may_have_several_readers() -> None:
    graph = trace_channels(Forked(), IMAGES)
    assert [(g.name, g.consumers) for g in graph.groups] == [
        ("a", ("b", "c")),
        ("b", ("classifier",)),
        ("c", ("other",)),
    ]
    widths = {"a": 2, "b": 3, "c": 5}
    assert graph.count_macs(widths) == 256 * 9 * (3 * 2 + 2 * 3 + 2 * 5) + 3 * 4 + 5 * 5
    assert graph.count_params(widths) == 9 * (3 * 2 + 2 * 3 + 2 * 5) + 10 + (3 * 4 + 4) + 5 * 5


def test_flattening_a_map_larger_than_a_pixel_is_unsupported() -> None:
    model = Chain()
    model.pool, model.classifier = nn.AdaptiveAvgPool2d(2), nn.Linear(32, 4)
    graph = trace_channels(model, IMAGES)
    assert _names(graph) == ["a", "b"]
    assert "flatten" in graph.unsupported_ops()[0].reason


def test_channels_of_the_output_are_pinned() -> None:
    graph = trace_channels(nn.Sequential(RepVGGBlock(3, 8), RepVGGBlock(8, 4)), IMAGES)
    assert _names(graph) == ["0"]
    assert graph.count_macs({"0": 1}) == 256 * 9 * (3 + 4)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), ""),
        (nn.Sequential(nn.Conv2d(3, 8, 3)), "0: no channel rule for Conv2d"),
        (nn.Sequential(RepVGGBlock(3, 8)), "the network's output"),
    ],
    ids=["linear", "conv", "output"],
)
def test_nothing_searchable_is_refused(model: nn.Module, reason: str) -> None:
    with pytest.raises(ValueError, match=f"no channel of Sequential is searchable .*{reason}"):
        trace_channels(model, IMAGES)


def test_pinned_groups_keep_their_channels() -> None:
    model = build_supernet("repvgg_tiny", 10)
    free = trace_channels(model, IMAGES)
    pinned = trace_channels(model, IMAGES, pinned=["stages.0.0", "stages.2.1"])
    assert _names(pinned) == ["stages.1.0", "stages.1.1", "stages.2.0"]
    assert pinned.count_macs() == free.count_macs()
    widths = {"stages.1.0": 3, "stages.1.1": 4, "stages.2.0": 5}
    assert pinned.count_macs(widths) == free.count_macs(widths)
    assert pinned.unsupported_ops() == ()


def test_unknown_pins_are_refused() -> None:
    with pytest.raises(ValueError, match="pinned group 'd' does not exist; known:"):
        trace_channels(Chain(), IMAGES, pinned=["a", "d"])


def test_pinning_everything_leaves_nothing() -> None:
    with pytest.raises(ValueError, match="no channel of Chain is searchable"):
        trace_channels(Chain(), IMAGES, pinned=["a", "b", "c"])
