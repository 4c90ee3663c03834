"""Code that counts on widths in a way nobody can rewrite: its channels stay, and that is told."""

from __future__ import annotations

import pytest
import torch
from exactness import check_exact, slice_at_random
from torch import Tensor, nn


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
