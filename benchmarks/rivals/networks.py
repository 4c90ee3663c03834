"""The supernets of the comparison: layouts of the literature, narrow enough for a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search_space.repvgg import RepVGG, RepVGGVariant


def small_repvgg(num_classes: int, in_channels: int = 3, width: float = 1.0) -> nn.Module:
    """RepVGG-A's five stages (a stem of the second's width, most blocks in the fourth), 13 blocks.

    Full resolution in the first stage, half of it in each of the next three.
    """
    widths = tuple(max(1, round(w * width)) for w in (8, 8, 16, 32, 128))
    variant = RepVGGVariant((1, 2, 3, 6, 1), widths, (1, 2, 2, 2, 1))
    return RepVGG(variant, num_classes, in_channels)


def narrow_repvgg(num_classes: int, in_channels: int = 3) -> nn.Module:
    """The same stages with 9 blocks of 6 to 48 channels, at higher resolution.

    Full resolution in the first two stages, half of it in the third, a quarter in the last two.
    """
    variant = RepVGGVariant((1, 2, 2, 3, 1), (6, 6, 12, 24, 48), (1, 1, 2, 2, 1))
    return RepVGG(variant, num_classes, in_channels)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al., CVPR 2016, figure 2)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum."""
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def small_resnet(num_classes: int, in_channels: int = 3, width: float = 1.0) -> nn.Module:
    """The CIFAR layout of He et al. (CVPR 2016, section 4.2) with 14 layers, half as wide."""
    widths = [max(1, round(w * width)) for w in (8, 16, 32)]
    stem = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
    layers: list[nn.Module] = [stem, nn.BatchNorm2d(widths[0]), nn.ReLU()]
    before = widths[0]
    for stage, out_channels in enumerate(widths):
        for block in range(2):
            layers.append(BasicBlock(before, out_channels, 2 if stage and not block else 1))
            before = out_channels
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes)
    )
