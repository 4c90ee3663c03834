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


def _network(part: Part) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 8, 1), part, nn.Conv2d(8, 5, 1),
        nn.ReLU(), nn.Conv2d(5, 2, 1),
    )  # fmt: skip


@pytest.mark.parametrize("kind", [BranchesOnWidth, Heads, ScaledByWidth, Window])
@pytest.mark.parametrize("seed", [0, 1])
def test_channels_of_such_code_stay_and_are_reported(kind: type[Part], seed: int) -> None:
    x = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    sliced = slice_at_random(_network(kind()), x, seed)
    names = set(sliced.widths)
    assert {"0", "4"} <= names
    assert "3.conv" not in names
    assert any(op.module.startswith("3") for op in sliced.graph.unsupported_ops())
    check_exact(sliced, x)
