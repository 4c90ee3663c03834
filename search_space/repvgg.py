"""RepVGG networks with their training-time branches.

Source: Ding et al., *RepVGG: Making VGG-style ConvNets Great Again*, CVPR 2021. A block is
``relu(bn(conv3x3(x)) + bn(conv1x1(x)) + bn(x))``; the last branch exists only where the block
keeps the shape of its input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor, nn

from search_space.reparam import ReparamBlock


class RepVGGBlock(ReparamBlock):
    """A 3x3, a 1x1 and, where shapes allow, an identity branch, each batch-normed, then ReLU.

    Input (N, in_channels, H, W), output (N, out_channels, ceil(H / stride), ceil(W / stride)).

    Args:
        in_channels: channels read.
        out_channels: channels written.
        stride: 1 or 2.
        identity: pairs (input channel, output channel) joined by the identity branch. ``None``
            gives RepVGG's rule: all of them if ``in_channels == out_channels`` and
            ``stride == 1``, else none. A sliced block keeps only the pairs with both ends open.
    """

    conv3x3: nn.Conv2d
    norm3x3: nn.BatchNorm2d
    conv1x1: nn.Conv2d
    norm1x1: nn.BatchNorm2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        identity: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, 3, stride, depthwise=False)
        self._add_branch("3x3", 3)
        self._add_branch("1x1", 1)
        self._add_identity(identity)

    def _resized(
        self, in_channels: int, out_channels: int, identity: Sequence[tuple[int, int]]
    ) -> Self:
        return type(self)(in_channels, out_channels, self.stride, identity)


@dataclass(frozen=True, slots=True)
class RepVGGVariant:
    """Layout of one family member: ``depths[i]`` blocks of ``widths[i]`` channels in stage i."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    """Stride of each stage's first block."""


def _imagenet(depths: tuple[int, ...], a: float, b: float) -> RepVGGVariant:
    """Widths of table 2 of the paper: 64a, 128a, 256a in the middle stages, 512b in the last."""
    widths = (min(64, int(64 * a)), int(64 * a), int(128 * a), int(256 * a), int(512 * b))
    return RepVGGVariant((1, *depths), widths, (2, 2, 2, 2, 2))


_A, _B = (2, 4, 14, 1), (4, 6, 16, 1)
REPVGG_VARIANTS: Mapping[str, RepVGGVariant] = {
    "repvgg_tiny": RepVGGVariant((1, 2, 2), (16, 32, 64), (1, 2, 2)),
    "repvgg_small": RepVGGVariant((1, 2, 3, 2), (16, 32, 64, 128), (1, 2, 2, 2)),
    "repvgg_a0": _imagenet(_A, 0.75, 2.5),
    "repvgg_a1": _imagenet(_A, 1.0, 2.5),
    "repvgg_a2": _imagenet(_A, 1.5, 2.75),
    "repvgg_b0": _imagenet(_B, 1.0, 2.5),
    "repvgg_b1": _imagenet(_B, 2.0, 4.0),
    "repvgg_b2": _imagenet(_B, 2.5, 5.0),
    "repvgg_b3": _imagenet(_B, 3.0, 5.0),
}


class RepVGG(nn.Module):
    """Stages of blocks, global average pooling and a linear classifier.

    Input (N, in_channels, H, W), output logits (N, num_classes). Blocks are named
    ``stages.<stage>.<block>``, and so are their channel groups.

    Args:
        variant: layout of the network.
        num_classes: number of logits.
        in_channels: channels of the image.
    """

    def __init__(self, variant: RepVGGVariant, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for depth, width, stride in zip(
            variant.depths, variant.widths, variant.strides, strict=True
        ):
            blocks = [
                RepVGGBlock(width if j else in_channels, width, 1 if j else stride)
                for j in range(depth)
            ]
            stages.append(nn.Sequential(*blocks))
            in_channels = width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (N, num_classes)."""
        logits: Tensor = self.classifier(self.flatten(self.pool(self.stages(x))))
        return logits
