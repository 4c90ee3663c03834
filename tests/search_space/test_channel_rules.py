"""One tiny network per operation: which groups result, and what is pinned and why."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from exactness import check_exact, slice_at_random
from torch import Tensor, nn
from torch.nn import functional as F

from search_space import ChannelGroup, slice_network, trace_channels


class Between(nn.Module):
    """Convolution ``a``, an operation on its 8 channels, convolution ``z``."""

    def __init__(self, operation: Callable[[Tensor], Tensor], channels: int = 8) -> None:
        super().__init__()
        self.a, self.operation, self.z = nn.Conv2d(3, 8, 1), operation, nn.Conv2d(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.z(self.operation(self.a(x)))


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(8, 3, 1), nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.b, self.c = nn.Conv2d(8, 5, 1), nn.Conv2d(5, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.c(self.b(x).relu())


class Concatenation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.b(x)], 1)


class Attention(nn.Module):
    """A map of one channel, broadcast over all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.b(x).sigmoid()


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Halves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        return torch.cat([first, self.b(second)], 1)


class OneWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.b, self.c = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)
        self.c.weight = self.b.weight

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b(x), self.c(x.relu())], 1)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.b(x).relu())


class LayerNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def shuffle(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def group(name, size, producers="", consumers="operation", per_unit=1) -> ChannelGroup:
    """Producers default to the group's own name; consumers named .b are those in the operation."""
    written = tuple((producers or name.partition("[")[0]).split())
    read = tuple(f"operation{c}" if c.startswith(".") else c for c in consumers.split())
    return ChannelGroup(name, size, written, read, per_unit)


ONE = [group("a", 8, consumers="z")]
FREE = {
    "batch_norm": (nn.BatchNorm2d(8), 8, ONE),
    "relu": (nn.ReLU(), 8, ONE),
    "constant": (lambda x: 1 - 0.5 * x.sigmoid(), 8, ONE),
    "dropout": (nn.Dropout2d(0.3), 8, ONE),
    "max_pool": (nn.MaxPool2d(2), 8, ONE),
    "upsample": (lambda x: F.interpolate(x, scale_factor=2.0), 8, ONE),
    "pad": (nn.ZeroPad2d(1), 8, ONE),
    "reflection_pad": (nn.ReflectionPad2d(1), 8, ONE),
    "replication_pad": (lambda x: F.pad(x, (1, 0, 0, 1), mode="replicate"), 8, ONE),
    "pad_of_channels": (lambda x: F.pad(x, (0, 0, 0, 0, 1, 3)), 12, ONE),
    "prelu": (nn.PReLU(8), 8, ONE),
    "prelu_of_one": (nn.PReLU(1), 8, ONE),
    "depthwise": (nn.Conv2d(8, 8, 3, groups=8), 8, ONE),
    "depthwise_by_two": (nn.Conv2d(8, 16, 3, groups=8), 16, ONE),
    "layer_norm": (LayerNorm(), 8, ONE),
    "group_norm": (nn.GroupNorm(2, 8), 8, [group("a", 4, consumers="z", per_unit=2)]),
    "instance_norm": (nn.InstanceNorm2d(8, affine=True), 8, ONE),
    "scale": (Scale(), 8, ONE),
    "roll_of_pixels": (lambda x: x.roll((1, 2), (2, 3)), 8, ONE),
    "in_place": (lambda x: x.flatten(2).relu_().view(x.shape), 8, ONE),
    "flip": (lambda x: x.flip(1), 8, ONE),
    "conv": (
        nn.Conv2d(8, 6, 3),
        6,
        [group("a", 8, consumers="operation"), group("operation", 6, consumers="z")],
    ),
    "transposed": (
        nn.ConvTranspose2d(8, 6, 2, 2),
        6,
        [group("a", 8, consumers="operation"), group("operation", 6, consumers="z")],
    ),
    "few_large_groups": (
        nn.Conv2d(8, 6, 1, groups=2),
        6,
        [
            group("a", 4, consumers="operation", per_unit=2),
            group("operation", 3, consumers="z", per_unit=2),
        ],
    ),
    "many_small_groups": (
        nn.Conv2d(8, 12, 1, groups=4),
        12,
        [group("a", 4, consumers="z", per_unit=2)],
    ),
    "squeeze_excite": (
        SqueezeExcite(),
        8,
        [
            group("a", 8, "a operation.up", ".down z"),
            group("operation.down", 3, consumers=".up"),
        ],
    ),
    "attention": (Attention(), 8, [group("a", 8, consumers=".b z")]),
    "residual": (
        Residual(),
        8,
        [group("a", 8, "a operation.c", ".b z"), group("operation.b", 5, consumers=".c")],
    ),
    "concatenation": (
        Concatenation(),
        12,
        [group("a", 8, consumers=".b z"), group("operation.b", 4, consumers="z")],
    ),
    "twice": (Twice(), 8, [group("a", 8, "a operation.b", ".b z")]),
    "shuffle": (shuffle, 8, ONE),
    "halves": (
        Halves(),
        8,
        [
            group("a[0]", 4, consumers="z"),
            group("a[4]", 4, consumers=".b"),
            group("operation.b", 4, consumers="z"),
        ],
    ),
    "sum_of_halves": (
        lambda x: x[:, :4] + x[:, 4:],
        4,
        [group("a", 4, consumers="z", per_unit=2)],
    ),
    "glu": (nn.GLU(1), 4, [group("a", 4, consumers="z", per_unit=2)]),
    "swapped": (
        lambda x: torch.cat(x.split([3, 5], 1)[::-1], 1),
        8,
        [group("a[0]", 3, consumers="z"), group("a[3]", 5, consumers="z")],
    ),
    "cut": (
        lambda x: x[:, 2:6],
        4,
        [group("a[0]", 4, consumers=""), group("a[2]", 4, consumers="z")],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("operation", "channels", "groups"), FREE.values(), ids=FREE)
def test_channels_stay_searchable(
    operation: Callable[[Tensor], Tensor], channels: int, groups: list[ChannelGroup]
) -> None:
    torch.manual_seed(0)
    model = Between(operation, channels)
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    sliced = slice_at_random(model, x, 1)
    assert list(sliced.graph.groups) == groups
    assert sliced.graph.unsupported_ops() == ()
    check_exact(sliced, x, training=not isinstance(operation, nn.Dropout2d))


class Attend(nn.Module):
    """Every channel attends to every other."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(2)
        return (y @ y.transpose(1, 2) @ y).view(x.shape)


def _relu_of_a_part(x: Tensor) -> Tensor:
    x[:, 4:].relu_()
    return x


def _seen_through_another_view(change: Callable[[Tensor], object]) -> Callable[[Tensor], Tensor]:
    def operation(x: Tensor) -> Tensor:
        first, second = x[:, :4], x[:, ::2]
        change(second)
        return torch.cat([first, first.tanh()], 1)

    return operation


class Doubled(nn.Module):
    """Its weight is used both ways round."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * 2)


PINNED = {
    "softmax": (nn.Softmax(1), "operation", "Softmax over channels needs all of them"),
    "softmax2d": (nn.Softmax2d(), "operation", "Softmax2d over channels needs all of them"),
    "mean": (
        lambda x: x - x.mean(1, keepdim=True),
        "mean",
        "mean over channels needs all of them",
    ),
    "maximum": (
        lambda x: x * x.amax(1, keepdim=True).sigmoid(),
        "amax",
        "amax over channels needs all of them",
    ),
    "matmul": (Attend(), "operation: matmul", "no channel rule for matmul"),
    "unknown": (lambda x: x.cumsum(1), "cumsum", "cumsum over channels needs all of them"),
    "roll": (lambda x: x.roll(1, 1), "roll", "no channel rule for roll"),
    "relu_of_a_part": (_relu_of_a_part, "relu", "relu changes a part of a tensor that is used"),
    "position": (
        lambda x: x + torch.arange(x.shape[1]).to(x)[:, None, None],
        "add",
        "add with a tensor that its code makes, one entry per channel",
    ),
    "other_view": (_seen_through_another_view(lambda y: y.mul_(3.0)), "mul", "mul changes a part"),
    "same_view": (
        _seen_through_another_view(lambda y: y.zero_()),
        "zero",
        "zero changes a part of",
    ),
    "response_norm": (nn.LocalResponseNorm(2), "operation", ""),
    "computed_weight": (Doubled(), "operation: conv2d", "no channel rule for conv2d"),
}


@pytest.mark.parametrize(("operation", "where", "reason"), PINNED.values(), ids=PINNED)
def test_what_needs_all_channels_is_pinned_and_reported(
    operation: Callable[[Tensor], Tensor], where: str, reason: str
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 3, 1), Between(operation))
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    sliced = slice_at_random(model, x, 1)
    assert [(g.name, g.size) for g in sliced.graph.groups] == [("0", 6), ("1", 3)]
    reported = {op.module: op.reason for op in sliced.graph.unsupported_ops()}
    place = f"2.{where}" if where.startswith("operation") else f"2: {where}"
    assert any(name.startswith(place) for name in reported)
    assert reason in "; ".join(reported.values())
    check_exact(sliced, x)


class CastLikeWeight(nn.Module):
    def __init__(self, cast: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.b, self.cast = nn.Conv2d(8, 6, 1), cast

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.cast(x, self.b.weight))


@pytest.mark.parametrize(
    "cast", [lambda x, w: x.type_as(w), lambda x, w: x.to(w), lambda x, w: x.to(w.dtype)]
)
def test_a_cast_to_the_type_of_another_tensor_ties_nothing(
    cast: Callable[[Tensor, Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    sliced = slice_at_random(Between(CastLikeWeight(cast), 6), x, 1)
    assert sliced.graph.full_widths() == {"a": 8, "operation.b": 6}
    assert sliced.graph.unsupported_ops() == ()
    check_exact(sliced, x)


def test_a_deviation_without_dimensions_is_one_over_all() -> None:
    model = Between(lambda x: x / (x.std(False) + 1))
    with pytest.raises(ValueError, match="std over channels needs all of them"):
        trace_channels(model, torch.empty(2, 3, 8, 8))


def test_convolutions_that_share_a_weight_share_their_channels() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    sliced = slice_at_random(Between(OneWeight(), 12), x, 1)
    assert sliced.graph.full_widths() == {"a": 8, "operation.b": 6}
    operation = sliced.compact.get_submodule("operation")
    assert operation.b.weight is operation.c.weight
    assert operation.b.weight.shape == (sliced.widths["operation.b"], sliced.widths["a"], 1, 1)
    check_exact(sliced, x)


def test_channels_that_only_go_together_stay_and_are_reported() -> None:
    """A pixel shuffle makes one channel of four."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.PixelShuffle(2), nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)
    )
    graph = trace_channels(model, torch.empty(1, 3, 8, 8))
    assert [g.name for g in graph.groups] == ["2"]
    assert [(op.module, op.reason) for op in graph.unsupported_ops()] == [
        ("0", "its 4 channels can only go all together")
    ]


def test_group_norm_of_single_channels_keeps_them_apart() -> None:
    for norm in (nn.GroupNorm(5, 5), nn.GroupNorm(5, 5, affine=False)):
        model = nn.Sequential(nn.Conv2d(3, 5, 1), norm, nn.Conv2d(5, 2, 1)).eval()
        graph = trace_channels(model, torch.empty(1, 3, 8, 8))
        assert [(g.name, g.size) for g in graph.groups] == [("0", 5)]
        assert graph.layout.norms == ()
        sliced = slice_network(model, graph, {"0": [0, 3]})
        assert (sliced[1].num_groups, sliced[1].num_channels) == (2, 2)
        assert sliced(torch.ones(2, 3, 8, 8)).shape == (2, 2, 8, 8)


def test_broadcasting_does_not_hide_a_cut_that_is_too_short() -> None:
    """Channels 3 to 5 are added to the image, so that they stay and 0 to 2 do not."""

    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.z = nn.Conv2d(3, 6, 1), nn.Conv2d(9, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.z(torch.cat([y, y[:, 3:] + x], 1))

    torch.manual_seed(0)
    x = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    for seed in range(4):
        sliced = slice_at_random(Cut(), x, seed)
        assert sliced.graph.full_widths() == {"a": 3}
        check_exact(sliced, x)


def test_flattened_maps_keep_a_unit_per_channel() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Flatten(), nn.Linear(5 * 64, 4), nn.Linear(4, 2))
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    sliced = slice_at_random(model, x, 1)
    assert [(g.name, g.size, g.consumers) for g in sliced.graph.groups] == [
        ("0", 5, ("2",)),
        ("2", 4, ("3",)),
    ]
    assert sliced.graph.count_macs({"0": 2, "2": 3}) == 64 * 3 * 2 + 2 * 64 * 3 + 3 * 2
    check_exact(sliced, x)
