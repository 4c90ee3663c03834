"""Code that counts on widths in a way nobody can rewrite: its channels stay, and that is told."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from exactness import check_exact, slice_at_random
from torch import Tensor, nn
from torch.nn import functional as F

from search_space import trace_channels


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)


class BranchesOnWidth(Part):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * 2 if y.shape[1] >= 8 else y


class Heads(Part):
    """Four heads of two channels each, mixed by an einsum."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        heads = self.conv(x).reshape(n, 4, c // 4, h * w)
        mixed = torch.einsum("ndcp,necp->nde", heads, heads).softmax(-1)
        return torch.einsum("nde,necp->ndcp", mixed, heads).reshape(n, c, h, w)


class ScaledByWidth(Part):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y / y.shape[1] ** 0.5


class Window(Part):
    """Channel c plus its neighbour in a ring of eight."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y + torch.stack([y[:, (k + 1) % 8] for k in range(8)], 1)


class Shuffled(Part):
    """By numbers that are no buffer, so that tracing does not know them."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, torch.tensor([1, 0, 1, 0, 2, 2, 1, 0])]


class Backwards(Part):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, torch.arange(7, -1, -1)]


class GroupsByWidth(Part):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return nn.functional.group_norm(y, max(1, y.shape[1] // 4))


class PooledByWidth(Part):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return nn.functional.adaptive_avg_pool2d(y, y.shape[1] // 4 + 1)


class EpsilonOfWidth(Part):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return nn.functional.normalize(y, dim=2, eps=10.0 / y.shape[1])


class ChoosesByWidth(Part):
    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.MaxPool2d(2, 1), nn.MaxPool2d(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.fine(y) if y.shape[1] > 6 else self.coarse(y)


class ScaledInTraining(Part):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y / y.shape[1] if self.training else y


class WithWidth(Part):
    """The width reaches the result through a tensor that the code makes."""

    def __init__(self, made: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.made = made

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * self.made(y)


def _network(part: Part) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 8, 1), part, nn.Conv2d(8, 5, 1),
        nn.ReLU(), nn.Conv2d(5, 2, 1),
    )  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [
        *(BranchesOnWidth, Heads, ScaledByWidth, Window, Shuffled, Backwards, GroupsByWidth),
        *(PooledByWidth, EpsilonOfWidth, ChoosesByWidth, ScaledInTraining),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_channels_of_such_code_stay_and_are_reported(kind: type[Part], seed: int) -> None:
    x = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    sliced = slice_at_random(_network(kind()), x, seed)
    names = set(sliced.widths)
    assert {"0", "4"} <= names
    assert "3.conv" not in names
    assert any(op.module.startswith("3") for op in sliced.graph.unsupported_ops())
    check_exact(sliced, x)


WIDTHS_IN_TENSORS: dict[str, Callable[[Tensor], Tensor]] = {
    "tensor": lambda y: torch.sqrt(torch.tensor(float(y.shape[1]))),
    "as_tensor": lambda y: torch.log2(torch.as_tensor(y.shape[1] + 1.0)),
    "full": lambda y: torch.full((1,), float(y.shape[1])),
    "ones": lambda y: torch.ones(y.shape[1]).sum(),
    "arange": lambda y: torch.arange(y.shape[1]).sum(),
    "from_numpy": lambda y: torch.from_numpy(np.array(float(y.shape[1]))),
    "new_tensor": lambda y: y.new_tensor(y.shape[1]),
    "new_full": lambda y: y.new_full((1,), y.shape[1]),
    "new_ones": lambda y: y.new_ones(y.shape[1]).sum(),
    "cat": lambda y: torch.cat([y.mean((1, 2, 3)), torch.tensor([float(y.shape[1])])])[-1],
    "value of pad": lambda y: F.pad(y[:, :, 1:], (0, 0, 1, 0), value=y.shape[1]),
    "pixels": lambda y: y[:, :, : y.shape[1] // 2].mean((2, 3), keepdim=True),
}


@pytest.mark.parametrize("how", WIDTHS_IN_TENSORS)
@pytest.mark.parametrize("seed", [0, 1])
def test_widths_that_reach_the_code_through_a_tensor_are_seen(how: str, seed: int) -> None:
    x = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    sliced = slice_at_random(_network(WithWidth(WIDTHS_IN_TENSORS[how])), x, seed)
    assert {"0", "4"} <= set(sliced.widths)
    check_exact(sliced, x)


class Blurred(Part):
    """Every channel by the same filter, made here for as many as there are."""

    def __init__(self, made: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.made = made

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return F.conv2d(y, self.made(y), padding=1, groups=y.shape[1])


@pytest.mark.parametrize(
    "made",
    [
        lambda y: torch.ones(y.shape[1], 1, 3, 3, dtype=y.dtype) / 9,
        lambda y: torch.arange(9.0, dtype=y.dtype).view(1, 1, 3, 3).repeat(y.shape[1], 1, 1, 1),
        lambda y: y.new_ones(y.shape[1], 1, 3, 3) / 9,
    ],
)
def test_a_filter_made_for_every_channel_leaves_them_free(
    made: Callable[[Tensor], Tensor],
) -> None:
    x = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    sliced = slice_at_random(_network(Blurred(made)), x)
    assert "3.conv" in sliced.widths
    check_exact(sliced, x)


class NoisyInTraining(Part):
    """Random numbers are not compared; drawing them while tracing would change later ones."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * torch.rand(()) if self.training else y * torch.tensor(2.0)


def test_tracing_draws_no_random_numbers() -> None:
    model = _network(NoisyInTraining())
    before = torch.get_rng_state()
    graph = trace_channels(model, torch.empty(3, 3, 4, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert "3.conv" in {group.name for group in graph.groups}


class HalvesInTraining(Part):
    """In training, the first half counts twice: code that knows the width."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return torch.cat([2 * y[:, :4], y[:, 4:]], 1) if self.training else y


def test_code_of_training_mode_is_held_to_the_same() -> None:
    x = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    for seed in range(3):
        sliced = slice_at_random(_network(HalvesInTraining()), x, seed)
        check_exact(sliced, x)


class InPlaceAtTheEnd(nn.Module):
    """New code for its view must keep the sigmoid, whose result nobody takes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.first, self.second = nn.Linear(128, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(self.conv(x).relu().view(-1, 128)).relu())
        x.sigmoid_()
        return x


@pytest.mark.parametrize("seed", [0, 1])
def test_what_changes_a_tensor_in_place_is_kept(seed: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    sliced = slice_at_random(InPlaceAtTheEnd(), x, seed)
    assert "conv" in sliced.widths
    check_exact(sliced, x)
