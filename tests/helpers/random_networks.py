"""Random networks out of all that a channel graph must understand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

Op = Callable[..., Any]


@dataclass(frozen=True)
class Step:
    """One operation: on the ``source``-th newest tensor (and a mate), of some size and variant."""

    op: str
    source: int = 0
    size: int = 1
    variant: int = 0


class Function(nn.Module):
    """An operation inside a module of its own; else it is the network's own code."""

    def __init__(self, function: Op) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, variant: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 3, 1), nn.Conv2d(3, channels, 1)
        self.gate = (nn.Sigmoid(), nn.Hardsigmoid())[variant % 2]

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


class SpatialAttention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x).sigmoid()


class Residual(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = (
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.conv2, self.norm2 = nn.Conv2d(width, channels, 1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class Twice(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(self.conv(x)))


class SharedWeight(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.one, self.two = (
            nn.Conv2d(channels, width, 1),
            nn.Conv2d(channels, width, 1, bias=False),
        )
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.two(x.flip(3)).relu()], 1)


class Split(nn.Module):
    """Halves used apart, as in ShuffleNet: one is left alone, one goes through a convolution."""

    def __init__(self, channels: int, variant: int) -> None:
        super().__init__()
        self.variant = variant
        self.conv = nn.Conv2d(channels // 2, channels // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1) if self.variant % 2 else torch.split(x, x.shape[1] // 2, dim=1)
        return torch.cat([self.conv(b), a], 1) if self.variant % 3 else a + self.conv(b)


class ChannelsLastNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Scale(nn.Module):
    def __init__(self, channels: int, variant: int) -> None:
        super().__init__()
        self.variant = variant
        self.scale = nn.Parameter(torch.randn((1,) * (variant % 2) + (channels, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale if self.variant % 3 else x + self.scale


def shuffle(groups: int, channels: int, variant: int) -> Op:
    def fixed(x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        return (
            x.view(n, groups, channels // groups, h, w).transpose(1, 2).reshape(n, channels, h, w)
        )

    def free(x: Tensor) -> Tensor:
        n, c, h, w = x.size()
        x = x.view(n, groups, c // groups, h, w)
        return torch.transpose(x, 1, 2).contiguous().view(n, -1, h, w)

    return (fixed, free, lambda x: F.channel_shuffle(x, groups))[variant % 3]


def divisor(number: int, wanted: int) -> int:
    return max(d for d in range(1, number + 1) if number % d == 0 and d <= max(wanted, 1))


def _conv(x: Tensor, size: int, variant: int) -> Op:
    kernel = 3 if variant % 2 else 1
    stride = 2 if variant % 3 == 2 and x.shape[2] >= 4 else 1
    return nn.Conv2d(x.shape[1], size + 1, kernel, stride, kernel // 2, bias=variant % 4 < 2)


def _grouped(x: Tensor, size: int, variant: int) -> Op:
    groups = divisor(x.shape[1], size)
    return nn.Conv2d(x.shape[1], groups * (1 + variant % 3), 3, padding=1, groups=groups)


def _depthwise(x: Tensor, _size: int, variant: int) -> Op:
    channels = x.shape[1]
    multiplier = 1 + (variant % 3 == 2)
    return nn.Conv2d(
        channels, channels * multiplier, 3, 1, 1, groups=channels, bias=variant % 2 == 0
    )


def _transposed(x: Tensor, size: int, variant: int) -> Op | None:
    if x.shape[2] > 8:
        return None
    channels = x.shape[1]
    groups = (1, 1, channels, divisor(channels, size))[variant % 4]
    out = size + 1 if groups == 1 else groups * (1 + size % 2)
    return nn.ConvTranspose2d(channels, out, 2, 2, groups=groups, bias=variant % 2 == 0)


ACTIVATIONS: list[Op] = [
    nn.ReLU(), nn.Hardswish(), torch.sigmoid, nn.GELU(), lambda x: x.tanh(), nn.ELU(),
    nn.LeakyReLU(0.1), F.silu, lambda x: 1 - 0.5 * x, lambda x: x.clamp(-1, 2) + 0.25, nn.PReLU(1),
]  # fmt: skip


def _pool(x: Tensor, _size: int, variant: int) -> Op | None:
    if x.shape[2] < 4:
        return nn.AvgPool2d(3, 1, 1)
    return (nn.MaxPool2d(2), lambda v: F.avg_pool2d(v, 2), nn.MaxPool2d(3, 2, 1))[variant % 3]


def _cut(x: Tensor, size: int, variant: int) -> Op | None:
    """Pieces of the channels, recombined or not."""
    channels = x.shape[1]
    if channels < 2:
        return None
    a = 1 + size % (channels - 1)
    ops: list[Op] = [
        lambda x: x[:, :a],
        lambda x: x[:, a:],
        lambda x: torch.cat([x[:, a:], x[:, :a].relu()], dim=1),
        lambda x: torch.cat(x.split([a, channels - a], dim=1)[::-1], 1),
        lambda x: torch.cat([x, x.narrow(1, a, channels - a).tanh()], 1),
        lambda x: F.pad(x, (0, 0, 0, 0, 1, a)),
        lambda x: x.flip(1),
        lambda x: x.roll(1, 1),
    ]
    if channels % 2 == 0:
        ops += [
            lambda x: x.chunk(2, 1)[0] + x.chunk(2, 1)[1],
            lambda x: torch.mul(*x.chunk(2, dim=1)),
            lambda x: F.glu(x, 1),
            lambda x: x[:, ::2] * x[:, 1::2],
            lambda x: torch.cat(torch.split(x, channels // 2, dim=1)[::-1], 1),
            lambda x: x.unflatten(1, (2, channels // 2)).sum(1),
        ]
    return ops[variant % len(ops)]


def _rearrange(x: Tensor, size: int, variant: int) -> Op | None:
    channels = x.shape[1]
    if variant % 4 == 0 and channels % 4 == 0 and x.shape[2] <= 8:
        return nn.PixelShuffle(2)
    if variant % 4 == 1 and channels <= 3 and x.shape[2] >= 4:
        return nn.PixelUnshuffle(2)
    return shuffle(divisor(channels, size + 1), channels, variant)


def _norm(x: Tensor, size: int, variant: int) -> Op:
    channels = x.shape[1]
    if variant % 8 == 6:
        return ChannelsLastNorm(channels)
    if variant % 8 == 7:
        return nn.GroupNorm(divisor(channels, size), channels)
    return nn.BatchNorm2d(channels)


def _upsample(x: Tensor, _size: int, variant: int) -> Op | None:
    mode = ("nearest", "bilinear")[variant % 2]
    return nn.Upsample(scale_factor=2, mode=mode) if x.shape[2] <= 4 else None


BUILDERS: dict[str, Callable[[Tensor, int, int], Op | None]] = {
    "conv": _conv,
    "norm": _norm,
    "activation": lambda _x, _s, v: copy.deepcopy(ACTIVATIONS[v % len(ACTIVATIONS)]),
    "residual": lambda x, s, _v: Residual(x.shape[1], s + 1),
    "prelu": lambda x, _s, _v: nn.PReLU(x.shape[1]),
    "depthwise": _depthwise,
    "grouped": _grouped,
    "squeeze_excite": lambda x, _s, v: SqueezeExcite(x.shape[1], v),
    "attention": lambda x, _s, _v: SpatialAttention(x.shape[1]),
    "scale": lambda x, _s, v: Scale(x.shape[1], v),
    "twice": lambda x, _s, _v: Twice(x.shape[1]),
    "shared": lambda x, s, _v: SharedWeight(x.shape[1], s + 1),
    "split": lambda x, _s, v: Split(x.shape[1], v) if x.shape[1] % 2 == 0 else None,
    "cut": _cut,
    "rearrange": _rearrange,
    "transposed": _transposed,
    "pool": _pool,
    "upsample": _upsample,
}
PAIRS: dict[str, Op] = {
    "add": lambda x, y: x + y,
    "multiply": lambda x, y: x * y.sigmoid(),
    "cat": lambda x, y: torch.cat([x, y], 1),
}


class Head(nn.Module):
    """From a map to scores, in the ways that networks do it."""

    def __init__(self, x: Tensor, variant: int) -> None:
        super().__init__()
        channels, area = x.shape[1], x.shape[2] * x.shape[3]
        self.variant, self.features = variant % 8, channels * area
        inputs = self.features if self.variant in {3, 4, 5} else channels
        self.norm = nn.LayerNorm(channels) if self.variant == 2 else nn.Identity()
        self.fc = nn.Conv2d(channels, 3, 1) if self.variant == 6 else nn.Linear(inputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.variant == 6:
            return self.fc(x).mean((2, 3))
        if self.variant == 1:
            x = F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1)
        elif self.variant == 3:
            x = torch.flatten(x, 1)
        elif self.variant == 4:
            x = x.reshape(x.size(0), -1)
        elif self.variant == 5:
            x = x.reshape(-1, self.features)
        elif self.variant == 7:
            x = x.permute(0, 2, 3, 1)
        else:
            x = self.norm(x.mean(dim=(2, 3)))
        return self.fc(x)


class Network(nn.Module):
    """Built from its description; steps that do not fit or that no head needs are left out."""

    def __init__(self, steps: list[Step], heads: list[tuple[int, int]]) -> None:
        super().__init__()
        self.layers, self.plan = nn.ModuleList(), []
        values, made = [torch.zeros(3, 3, 8, 8)], []

        def append(op: Op, *sources: int) -> None:
            with torch.no_grad():
                values.append(op(*[values[k] for k in sources]))
            made.append((op, sources, len(values) - 1))

        append(nn.Conv2d(3, 6, 3, padding=1), 0)
        for step in steps:
            source = max(1, len(values) - 1 - step.source)
            if step.op in PAIRS:
                mates = _mates(values, source, step.op)
                if mates:
                    append(PAIRS[step.op], source, mates[-1 - step.size % len(mates)])
            elif op := BUILDERS[step.op](values[source], step.size, step.variant):
                wrap = step.variant % 2 and not isinstance(op, nn.Module)
                append(Function(op) if wrap else op, source)
        last = len(values) - 1
        for source, variant in heads:
            at = max(1, last - source)
            append(Head(values[at], variant), at)
        self.outputs = list(range(last + 1, len(values)))
        needed = set(self.outputs)
        for op, sources, result in reversed(made):
            if result in needed:
                needed.update(sources)
                self.plan.insert(0, (op, sources, result))
        for k, (op, sources, result) in enumerate(self.plan):
            if isinstance(op, nn.Module):
                self.plan[k] = (len(self.layers), sources, result)
                self.layers.append(op)

    def forward(self, x: Tensor) -> Any:
        values = {0: x}
        for op, sources, result in self.plan:
            function = self.layers[op] if isinstance(op, int) else op
            values[result] = function(*[values[k] for k in sources])
        found = tuple(values[k] for k in self.outputs)
        return found[0] if len(found) == 1 else found


def _mates(values: list[Tensor], source: int, op: str) -> list[int]:
    """Tensors that fit to one, and are not too many channels with it."""
    shape, start = values[source].shape, 2 if op == "cat" else 1
    return [
        k
        for k, v in enumerate(values)
        if k != source and v.shape[start:] == shape[start:] and v.shape[1] + shape[1] <= 24
    ]


small = st.integers(0, 7)
descriptions = st.tuples(
    st.lists(
        st.builds(
            Step,
            st.sampled_from([*BUILDERS, *PAIRS]),
            st.sampled_from([0, 0, 0, 0, 1, 2, 3]),
            small,
            st.integers(0, 27),
        ),
        max_size=9,
    ),
    st.lists(st.tuples(st.sampled_from([0, 0, 1, 2]), small), min_size=1, max_size=2),
)
