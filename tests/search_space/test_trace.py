"""Whole traces: what is left untouched, what is refused, what scopes and pins do."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from exactness import check_exact, slice_at_random
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from search_space import ChannelGraph, PlainBlock, RepVGGBlock, build_supernet, trace_channels

IMAGES = torch.empty(2, 3, 16, 16)


class Chain(nn.Module):
    """Blocks a, b and c of 8 channels, then a linear classifier."""

    def __init__(self, block: type[nn.Module] = RepVGGBlock) -> None:
        super().__init__()
        self.a, self.b, self.c = block(3, 8), block(8, 8), block(8, 8)
        self.pool, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4)

    def features(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


class Residual(Chain):
    def features(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.c(self.b(y) + y)


class Recurrent(Chain):
    def features(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.b(self.a(x))))


class Forked(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(8, 5, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.a(x)
        heads = [torch.flatten(self.pool(block(y)), 1) for block in (self.b, self.c)]
        return self.classifier(heads[0]), self.other(heads[1])


class BranchesOnValues(Chain):
    def features(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.c(self.b(y) if y.mean() > 0 else y)


class Detector(nn.Module):
    """Its own code depends on values; its backbone does not."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3))
        self.head = nn.Sequential(nn.Conv2d(5, 7, 1), nn.Conv2d(7, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.backbone(x if float(x.sum()) > 0 else -x)
        return self.head(y[:, :, : max(1, int(y.sum().abs() % 4))])


def _summary(graph: ChannelGraph) -> list[tuple[str, tuple[str, ...]]]:
    return [(group.name, group.consumers) for group in graph.groups]


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def test_a_chain_of_blocks_is_searchable_in_every_block() -> None:
    graph = trace_channels(Chain(), IMAGES)
    assert _summary(graph) == [("a", ("b",)), ("b", ("c",)), ("c", ("classifier",))]
    assert graph.unsupported_ops() == ()
    assert graph.count_macs() == 256 * 9 * (3 * 8 + 8 * 8 + 8 * 8) + 8 * 4


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_untouched(training: bool) -> None:
    torch.manual_seed(0)
    model = build_supernet("repvgg_tiny", 10).train(training)
    model.stages[1].train(not training)  # say, a stage whose statistics are frozen
    modes = [m.training for m in model.modules()]
    before = {name: (tensor, tensor.clone()) for name, tensor in _tensors(model)}
    modules = dict(model.named_modules())
    trace_channels(model, torch.empty(2, 3, 8, 8))
    assert [m.training for m in model.modules()] == modes
    assert dict(model.named_modules()) == modules
    after = dict(_tensors(model))
    assert after.keys() == before.keys()
    for name, (tensor, value) in before.items():
        assert after[name] is tensor
        assert torch.equal(tensor, value)
        assert tensor.device.type == "cpu"
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_failed_trace_leaves_the_network_untouched() -> None:
    model = BranchesOnValues()
    model.b.eval()
    modes = [m.training for m in model.modules()]
    before = dict(_tensors(model))
    with pytest.raises(ValueError, match="cannot be traced"):
        trace_channels(model, IMAGES)
    assert [m.training for m in model.modules()] == modes
    assert all(dict(_tensors(model))[name] is tensor for name, tensor in before.items())


class _LayersRun(TorchDispatchMode):
    """Collects convolutions and norms of real numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        real = [t for t in tree_leaves(result) if type(t) is Tensor and t.device.type != "meta"]
        if real and any(word in str(func) for word in ("conv", "norm", "mm")):
            self.found.append(str(func))
        return result


def test_no_layer_is_computed() -> None:
    model, images = build_supernet("repvgg_tiny", 10), torch.empty(2, 3, 8, 8)
    with _LayersRun() as real:
        trace_channels(model, images)
    assert real.found == []
    with _LayersRun() as real:
        model(images)
    assert "aten.convolution.default" in real.found


def _costs(graph: ChannelGraph) -> list[int]:
    widths = {group.name: 1 + group.size // 3 for group in graph.groups}
    resources = ("macs", "num_params", "activation_bytes")
    return [graph.count(name, w) for name in resources for w in ({}, widths)]


def test_networks_on_the_meta_device_give_the_same_graph() -> None:
    with torch.device("meta"):
        unreal = build_supernet("repvgg_tiny", 10)
    ours, theirs = (trace_channels(m, IMAGES) for m in (unreal, build_supernet("repvgg_tiny", 10)))
    assert ours.groups == theirs.groups
    assert _costs(ours) == _costs(theirs)


def test_batch_size_does_not_count() -> None:
    model = Chain()
    one, many = (trace_channels(model, torch.empty(n, 3, 16, 16)) for n in (1, 64))
    assert one.groups == many.groups
    assert _costs(one) == _costs(many)


def test_deploy_form_has_the_graph_of_the_training_form() -> None:
    plain, blocks = (trace_channels(Chain(kind), IMAGES) for kind in (PlainBlock, RepVGGBlock))
    assert [g.name for g in plain.groups] == [f"{g.name}.conv" for g in blocks.groups]
    for resource in ("macs", "num_params"):
        vector = torch.tensor([3, 2, 5])
        assert plain.evaluate(resource, vector.double()) == blocks.evaluate(
            resource, vector.double()
        )


def test_a_sum_of_blocks_is_one_group() -> None:
    graph = trace_channels(Residual(), IMAGES)
    assert _summary(graph) == [("a", ("b", "c")), ("c", ("classifier",))]
    assert graph.groups[0].producers == ("a", "b")


def test_a_block_called_twice_reads_what_it_writes() -> None:
    graph = trace_channels(Recurrent(), IMAGES)
    assert _summary(graph) == [("a", ("b", "c")), ("c", ("classifier",))]
    assert graph.count_macs({"a": 3, "c": 5}) == 2304 * (3 * 3 + 2 * 9 + 3 * 5) + 5 * 4


@pytest.mark.parametrize("network", [Chain, Residual, Recurrent, Forked])
def test_networks_of_blocks_are_sliced_exactly(network: type[Chain]) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    model = network()
    sliced = slice_at_random(model, x, 1)
    with torch.no_grad():
        for ours, theirs in zip(
            tree_leaves(sliced.compact(x)), tree_leaves(sliced.gated(x)), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_group_may_have_several_readers() -> None:
    graph = trace_channels(Forked(), IMAGES)
    assert _summary(graph) == [("a", ("b", "c")), ("b", ("classifier",)), ("c", ("other",))]
    widths = {"a": 2, "b": 3, "c": 5}
    assert graph.count_macs(widths) == 256 * 9 * (3 * 2 + 2 * 3 + 2 * 5) + 3 * 4 + 5 * 5
    assert graph.count_params(widths) == 9 * (3 * 2 + 2 * 3 + 2 * 5) + 10 + (3 * 4 + 4) + 5 * 5


def test_channels_of_the_output_are_pinned() -> None:
    graph = trace_channels(nn.Sequential(RepVGGBlock(3, 8), RepVGGBlock(8, 4)), IMAGES)
    assert [g.name for g in graph.groups] == ["0"]
    assert graph.count_macs({"0": 1}) == 256 * 9 * (3 + 4)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)),
            "are the network's",
        ),
        (nn.Sequential(nn.Conv2d(3, 8, 3)), "all are pinned or are the network's output"),
        (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.Softmax(1), nn.Conv2d(8, 2, 1)),
            "1: Softmax over channels needs all of them",
        ),
    ],
    ids=["linear", "output", "softmax"],
)
def test_nothing_searchable_is_refused_with_the_reason(model: nn.Module, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^no channel of Sequential is searchable .*{reason}"):
        trace_channels(model, IMAGES)


class _Optional(nn.Module):
    """Arguments that a caller may leave out decide what is run."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(k, 4, 1) for k in (3, 4, 4))

    def forward(
        self, x: Tensor, skip: Tensor | None = None, scale: float = 2.0, *, twice: bool = False
    ) -> Tensor:
        y = self.a(x) * scale if scale > 1 else x
        if skip is not None:
            y = y + skip
        if twice:
            y = self.b(y)
        return self.c(self.b(y))


def test_arguments_with_defaults_may_be_left_out() -> None:
    torch.manual_seed(0)
    model, x = _Optional(), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    sliced = slice_at_random(model, x, 1)
    assert _summary(sliced.graph) == [("a", ("b",)), ("b", ("c",))]
    check_exact(sliced, x)
    graph = trace_channels(model, (x, torch.empty(3, 4, 8, 8)))
    assert _summary(graph) == [("b", ("c",))]  # the skip comes from outside: its channels stay


def test_control_flow_on_values_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"^BranchesOnValues cannot be traced: its control flow depends on the values of a",
    ):
        trace_channels(BranchesOnValues(), IMAGES)


class _Item(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.max())


class _Numpy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy())


@pytest.mark.parametrize("part", [_Item, _Numpy])
def test_the_module_in_the_way_is_named(part: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.ReLU(), part()), nn.Conv2d(4, 2, 1))
    with pytest.raises(ValueError, match=r"^1\.1 cannot be traced: ") as caught:
        trace_channels(model, IMAGES)
    assert "\n" not in str(caught.value)


def test_images_that_are_too_small_are_refused_with_the_module() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 7)), nn.Conv2d(4, 2, 1))
    with pytest.raises(ValueError, match=r"cannot be traced: .*[Kk]ernel size"):
        trace_channels(model, torch.empty(1, 3, 4, 4))


def test_wrong_numbers_of_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cannot be traced: "):
        trace_channels(Chain(), torch.empty(1, 5, 16, 16))


SCOPED: list[tuple[Any, str]] = [
    ("backbon", "^scope 'backbon' does not exist in Detector; did you mean 'backbone'"),
    ("zzz", r"^scope 'zzz' does not exist in Detector; see named_modules\(\)"),
    (["backbone", "backbone.0"], "^scope 'backbone' contains scope 'backbone.0'; name only one"),
    (["head", "head"], "^scope 'head' contains scope 'head'; name only one of them"),
]


@pytest.mark.parametrize(("scope", "message"), SCOPED)
def test_impossible_scopes_are_refused(scope: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trace_channels(Detector(), IMAGES, scope=scope)


def test_a_scope_that_is_never_called_is_refused() -> None:
    model = Detector()
    model.spare = nn.Conv2d(3, 4, 1)
    with pytest.raises(ValueError, match=r"^scope 'spare' is not called in a forward pass of Det"):
        trace_channels(model, torch.ones(1, 3, 16, 16), scope="spare")


class Halved(nn.Module):
    """Its keyword arguments change what it does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x, skip=None, *, scale=None):
        y = self.conv(x)
        if skip is not None:
            y = y[:, :, ::2, ::2]
        return self.last(y) if scale is None else self.last(y * scale)


@pytest.mark.parametrize(
    ("named", "positions"), [({"scale": 2.0}, 64), ({"skip": True}, 16), ({}, 64)]
)
def test_a_scope_is_given_its_keyword_arguments_by_name(named, positions):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Halved()

        def forward(self, x):
            return self.body(x, **named)

    scoped = trace_channels(Whole(), torch.ones(1, 3, 8, 8), scope="body")
    assert scoped.count_macs() == 64 * 3 * 8 * 9 + positions * 8 * 4


def test_scopes_keep_what_crosses_their_border_and_count_only_themselves() -> None:
    model = Detector()
    with pytest.raises(ValueError, match="its control flow depends on the values of a tensor"):
        trace_channels(model, torch.ones(1, 3, 16, 16))
    graph = trace_channels(model, torch.ones(1, 3, 16, 16), scope=["backbone"])
    assert [(g.name, g.size, g.consumers) for g in graph.groups] == [
        ("backbone.0", 6, ("backbone.2",))
    ]
    assert graph.count_macs({"backbone.0": 2}) == 9 * (3 * 2 * 14 * 14 + 2 * 5 * 12 * 12)
    both = trace_channels(model, torch.ones(1, 3, 16, 16), scope=["backbone", "head"])
    assert [g.name for g in both.groups] == ["backbone.0", "head.0"]


def test_a_scope_is_sliced_exactly() -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    sliced = slice_at_random(Detector(), x, 3, scope=["backbone", "head"])
    assert sliced.widths["backbone.0"] < 6
    with torch.no_grad():
        torch.testing.assert_close(sliced.compact(x), sliced.gated(x), rtol=1e-9, atol=1e-12)


def test_pinned_groups_keep_their_channels() -> None:
    model = build_supernet("repvgg_tiny", 10)
    free = trace_channels(model, IMAGES)
    pinned = trace_channels(model, IMAGES, pinned=["stages.0.0", "stages.2.1"])
    assert [g.name for g in pinned.groups] == ["stages.1.0", "stages.1.1", "stages.2.0"]
    assert pinned.count_macs() == free.count_macs()
    widths = {"stages.1.0": 3, "stages.1.1": 4, "stages.2.0": 5}
    assert pinned.count_macs(widths) == free.count_macs(widths)
    assert pinned.unsupported_ops() == ()


def test_pinning_a_module_pins_its_submodules() -> None:
    graph = trace_channels(build_supernet("repvgg_tiny", 10), IMAGES, pinned=["stages.1"])
    assert [g.name for g in graph.groups] == ["stages.0.0", "stages.2.0", "stages.2.1"]


@pytest.mark.parametrize(
    ("pinned", "left"),
    [
        (["1"], ["3", "4"]),
        (["2"], ["3", "4"]),
        (["3"], ["0", "4"]),
        (["6"], ["0", "3"]),
        (["1", "6"], ["3"]),
        (["4"], ["0", "3"]),
    ],
)
def test_pinned_modules_that_write_no_channels_keep_those_they_are_given(
    pinned: list[str], left: list[str]
) -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 5, 1)),
        *(RepVGGBlock(5, 7), nn.Flatten(), nn.Linear(7 * 14 * 14, 4)),
    )
    graph = trace_channels(model, IMAGES, pinned=pinned)
    assert [group.name for group in graph.groups] == left


def test_a_last_block_that_is_pinned_keeps_what_it_reads() -> None:
    model = nn.Sequential(RepVGGBlock(3, 6), RepVGGBlock(6, 5), RepVGGBlock(5, 4))
    graph = trace_channels(model, IMAGES, pinned=["2"])
    assert [group.name for group in graph.groups] == ["0"]


def test_pins_are_sliced_exactly() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1)
    )
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    sliced = slice_at_random(model, x, 2, pinned=["0"])
    assert list(sliced.widths) == ["2"]
    check_exact(sliced, x)


@pytest.mark.parametrize(
    ("pinned", "message"),
    [
        ("clasifier", "^pinned 'clasifier' is neither .* nor a module; did you mean 'classifier'"),
        ("zzz", r"^pinned 'zzz' is neither a channel group nor a module; known groups: \['a', "),
        ("pool", "^pinned 'pool' has no weights, so it keeps no channels; name the layer before"),
    ],
)
def test_unknown_pins_are_refused(pinned: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trace_channels(Chain(), IMAGES, pinned=["a", pinned])


def test_pins_outside_the_scope_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^pinned 'head' lies outside the scope \(backbone\)"):
        trace_channels(Detector(), torch.ones(1, 3, 16, 16), scope="backbone", pinned=["head"])


def test_pinning_everything_leaves_nothing() -> None:
    with pytest.raises(ValueError, match="no channel of Chain is searchable"):
        trace_channels(Chain(), IMAGES, pinned=["a", "b", "c"])


class _Auxiliary(nn.Module):
    """A second head that runs in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1)
        self.main, self.aux = nn.Linear(4, 2), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Any:
        y = F.relu(self.stem(x))
        out = self.main(self.body(y).mean((2, 3)))
        return (out, self.aux(y).mean((2, 3))) if self.training else out


def test_heads_that_run_in_training_only_are_sliced_too() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    sliced = slice_at_random(_Auxiliary(), x, 4)
    assert {g.name: g.consumers for g in sliced.graph.groups} == {
        "stem": ("body", "aux"),
        "body": ("main",),
    }
    check_exact(sliced, x)


def test_maps_of_one_pixel_can_be_traced_in_either_mode() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)
    )
    for training in (True, False):
        graph = trace_channels(model.train(training), torch.empty(1, 3, 3, 3))
        assert [group.name for group in graph.groups] == ["0"]
        assert model.training is training


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_layers_with_hooks_are_refused(register: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    getattr(model[0], register)(lambda *_: None)
    with pytest.raises(ValueError, match=r"^0 cannot be traced: it has a forward hook"):
        trace_channels(model, IMAGES)


def test_what_pruning_left_is_named_with_the_cure() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    prune.l1_unstructured(model[0], "weight", 0.5)
    with pytest.raises(ValueError, match=r"^0 holds a computed tensor .*prune\.remove"):
        trace_channels(model, IMAGES)
    prune.remove(model[0], "weight")
    assert [group.name for group in trace_channels(model, IMAGES).groups] == ["0"]


class _BlockAndBorrower(nn.Module):
    """A block whose kernel another block has too, or a convolution uses by itself."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = (RepVGGBlock(k, 6) for k in (3, 6, 6))
        self.head = nn.Conv2d(6, 2, 1)
        self.tied = tied
        if tied:
            self.c.conv3x3.weight = self.b.conv3x3.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x))
        if self.tied:
            return self.head(self.c(x))
        return self.head(nn.functional.conv2d(x, self.b.conv3x3.weight, padding=1))


@pytest.mark.parametrize("tied", [True, False])
def test_a_block_whose_weights_something_else_uses_keeps_its_channels(tied: bool) -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="something else uses its weights"):
        trace_channels(_BlockAndBorrower(tied), torch.randn(3, 3, 8, 8))


class _TwoNames(nn.Module):
    """A block that the network knows by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = RepVGGBlock(3, 6), RepVGGBlock(6, 5), nn.Conv2d(5, 2, 1)
        self.blocks = nn.ModuleList([self.a, self.b])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_a_block_of_two_names_is_sliced_at_both() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    sliced = slice_at_random(_TwoNames(), x, 1)
    assert [group.size for group in sliced.graph.groups] == [6, 5]
    with torch.no_grad():
        torch.testing.assert_close(sliced.compact(x), sliced.gated(x))
