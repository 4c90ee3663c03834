"""What code sees while it is recorded, and what cannot be recorded."""

from __future__ import annotations

import builtins
import warnings
from typing import Any

import pytest
import torch
from exactness import check_exact, slice_at_random
from torch import Tensor, nn

from search_space import trace_channels

IMAGES = torch.empty(2, 3, 8, 8)


class Small(nn.Module):
    """Two convolutions that are used, and one that may be used instead."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.other = (nn.Conv2d(k, 8, 3, padding=1) for k in (3, 8, 8))
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 4)

    def middle(self, x: Tensor) -> Tensor:
        return self.b(x)

    def forward(self, x: Tensor) -> Tensor:
        y = self.middle(self.norm(self.a(x)).relu())
        return self.head(y.relu().mean((2, 3)))


class AsksForTensor(Small):
    def middle(self, x: Tensor) -> Tensor:
        return self.b(x) if isinstance(x, Tensor) else self.other(x)


class AsksTorch(Small):
    def middle(self, x: Tensor) -> Tensor:
        return self.b(x) if torch.is_tensor(x) else self.other(x)


class AsksForOneOfTwo(Small):
    def middle(self, x: Tensor) -> Tensor:
        parts = x.chunk(2, 1)
        assert isinstance(parts[0], (str, Tensor))
        assert not isinstance(parts, Tensor)
        assert not isinstance(x, (nn.Parameter, str))
        assert isinstance(self.b.weight, Tensor)
        return self.b(torch.cat(parts, 1))


class AsksBeforeShuffling(Small):
    """New code is recorded apart, where the same must hold."""

    def middle(self, x: Tensor) -> Tensor:
        first, second = (x if isinstance(x, Tensor) else x[0]).chunk(2, 1)
        return self.b(torch.cat([second, first.tanh()], 1))


@pytest.mark.parametrize("kind", [AsksForTensor, AsksTorch, AsksForOneOfTwo, AsksBeforeShuffling])
@pytest.mark.parametrize("seed", [0, 1])
def test_code_may_ask_whether_something_is_a_tensor(kind: type[Small], seed: int) -> None:
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    before = builtins.isinstance
    network = kind()
    del network.other
    if kind in (AsksForTensor, AsksTorch):
        network.other = nn.Identity()
    sliced = slice_at_random(network, x, seed)
    assert builtins.isinstance is before
    assert len(sliced.widths) >= 2
    check_exact(sliced, x)


class Counts(Small):
    """Steps are counted in training, by a buffer that is replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def middle(self, x: Tensor) -> Tensor:
        if self.training:
            self.count = self.count + 1
            return self.b(x) * (self.count > 0)
        return self.b(x)


def test_buffers_may_be_replaced_in_training() -> None:
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    network = Counts()
    del network.other
    sliced = slice_at_random(network, x)
    assert set(sliced.widths) == {"a", "b"}
    check_exact(sliced, x)


class HeadInTraining(Small):
    """An auxiliary head that only training uses, in code that depends on chance."""

    def middle(self, x: Tensor) -> Tensor:
        if self.training:
            self.loss = self.other(x).square().mean()
            if torch.rand(()) < 0.2:
                return self.b(x) * 0.9
        return self.b(x)


def test_a_head_of_training_mode_that_cannot_be_followed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^HeadInTraining cannot .* leaves out other\.weight\)$"):
        trace_channels(HeadInTraining(), IMAGES)


class LeavesOutLayers(Small):
    """Stochastic depth: what training leaves out at random is all in evaluation."""

    def middle(self, x: Tensor) -> Tensor:
        if not self.training or torch.rand(()) < 0.8:
            x = x + self.other(x)
        return self.b(x)


def test_training_mode_by_chance_is_not_followed_where_evaluation_uses_all() -> None:
    graph = trace_channels(LeavesOutLayers(), IMAGES)
    assert {group.name for group in graph.groups} == {"a", "b"}


class OneValue(Small):
    def middle(self, x: Tensor) -> Tensor:
        return self.b(x * self.norm(x.mean((0, 2, 3), keepdim=True)))


def test_batch_norm_over_one_value_in_training_is_no_hindrance() -> None:
    graph = trace_channels(OneValue(), IMAGES)
    assert {group.name for group in graph.groups} == {"a", "b"}


class Excites(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean((2, 3), keepdim=True).sigmoid()


def _scripted(part: object) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(part)


def _swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class WithParts(Small):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.b = part, nn.Sequential(nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1))

    def middle(self, x: Tensor) -> Tensor:
        return self.b(self.part(x))


@pytest.mark.parametrize("scope", [None, "b"])
def test_compiled_parts_are_refused(scope: str | None) -> None:
    network = WithParts(torch.compile(Excites()))
    with pytest.raises(ValueError, match=r"^part is compiled and .* use it without torch.compile$"):
        trace_channels(network, IMAGES, scope=scope)


def test_channels_that_a_scripted_part_reads_stay() -> None:
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    network = WithParts(_scripted(Excites()))
    del network.other
    sliced = slice_at_random(network, x)
    assert set(sliced.widths) == {"b.0", "b.1"}
    (stays,) = sliced.graph.unsupported_ops()
    assert stays.reason == "no channel rule for scripted modules"
    assert stays.module.startswith("part")
    check_exact(sliced, x)


class Mapped(Small):
    def middle(self, x: Tensor) -> Tensor:
        return self.b(torch.vmap(lambda image: image * 2)(x))


class Masks(Small):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(8) > 0)

    def middle(self, x: Tensor) -> Tensor:
        return self.b(x[:, self.mask])


class CallsScripted(Small):
    swish = staticmethod(_scripted(_swish))

    def middle(self, x: Tensor) -> Tensor:
        return self.b(self.swish(x))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Masks, "the shape of a result depends on the values of a tensor, .* by the mask"),
        (Mapped, "it hands a tensor to code that cannot be looked into, .* instead"),
        (CallsScripted, "it hands a tensor to code that cannot be looked into, .* instead"),
    ],
)
def test_what_cannot_be_recorded_is_told_in_a_sentence(kind: type[Small], reason: str) -> None:
    with pytest.raises(ValueError, match=rf"^{kind.__name__} cannot be traced: {reason}$"):
        trace_channels(kind(), IMAGES)
