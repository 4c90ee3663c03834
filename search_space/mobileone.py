"""MobileOne networks: depth-wise separable, reparameterizable.

Source: Vasu et al., *MobileOne: An Improved One millisecond Mobile Backbone*, CVPR 2023, arXiv
2206.04040, section 3.2 and table 2. A unit is a depth-wise block and a point-wise one. Each block
sums ``num_branches`` equal conv + batch-norm branches, for kernels above 1 a 1x1 "scale" branch
and, where it keeps its input's shape, a batch-normed identity; then ReLU. The variants without
squeeze-and-excite (s0 to s3) are here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor, nn

from search_space.reparam import ReparamBlock


class MobileOneBlock(ReparamBlock):
    """One half of a MobileOne unit, or its stem.

    Input (N, in_channels, H, W), output (N, out_channels, ceil(H / stride), ceil(W / stride)).

    Args:
        in_channels: channels read.
        out_channels: channels written.
        kernel_size: odd; 3 in depth-wise blocks and the stem, 1 in point-wise blocks.
        stride: of the convolution the block becomes.
        depthwise: output channel c reads input channel c only.
        num_branches: equal branches that are summed, at least 1 (k in the paper).
        identity: pairs (input channel, output channel) joined by the identity branch; ``None``
            joins all of them where ``in_channels == out_channels`` and ``stride == 1``.

    Raises:
        ValueError: an argument is out of range, or a depth-wise block would change its width.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        depthwise: bool = False,
        num_branches: int = 1,
        identity: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, depthwise=depthwise)
        if num_branches < 1:
            raise ValueError(f"num_branches is {num_branches}; a block needs at least 1")
        self.num_branches = num_branches
        for k in range(num_branches):
            self._add_branch(f"_{k}", kernel_size)
        if kernel_size > 1:
            self._add_branch("_scale", 1)
        self._add_identity(identity)

    def _resized(
        self, in_channels: int, out_channels: int, identity: Sequence[tuple[int, int]]
    ) -> Self:
        return type(self)(
            in_channels,
            out_channels,
            self.kernel_size,
            self.stride,
            depthwise=self.depthwise,
            num_branches=self.num_branches,
            identity=identity,
        )


@dataclass(frozen=True, slots=True)
class MobileOneVariant:
    """Layout of one family member: stage 0 is the stem, ``depths[i]`` units follow in stage i."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    """Channels of each stage."""
    strides: tuple[int, ...]
    """Stride of each stage's first block."""
    num_branches: int
    """Equal branches per block; the stem has one."""


def _imagenet(a: float, b: float, c: float, d: float, num_branches: int = 1) -> MobileOneVariant:
    """Widths of table 2 of the paper: 64a, 128b, 256c, 512d after a stem of min(64, 64a)."""
    widths = (min(64, int(64 * a)), int(64 * a), int(128 * b), int(256 * c), int(512 * d))
    return MobileOneVariant((1, 2, 8, 10, 1), widths, (2, 2, 2, 2, 2), num_branches)


MOBILEONE_VARIANTS: Mapping[str, MobileOneVariant] = {
    "mobileone_small": MobileOneVariant((1, 2, 4, 2), (32, 64, 128, 256), (1, 2, 2, 2), 1),
    "mobileone_s0": _imagenet(0.75, 1.0, 1.0, 2.0, num_branches=4),
    "mobileone_s1": _imagenet(1.5, 1.5, 2.0, 2.5),
    "mobileone_s2": _imagenet(1.5, 2.0, 2.5, 4.0),
    "mobileone_s3": _imagenet(2.0, 2.5, 3.0, 4.0),
}


class MobileOne(nn.Module):
    """A stem, stages of depth-wise separable units, global average pooling, linear classifier.

    Input (N, in_channels, H, W), output logits (N, num_classes). The stem is ``stages.0.0``; a
    unit's blocks are ``stages.<stage>.<unit>.depthwise`` and ``stages.<stage>.<unit>.pointwise``.

    Args:
        variant: layout (depths and strides count; ``widths`` gives the channels).
        num_classes: number of logits.
        in_channels: channels of the image.
    """

    def __init__(self, variant: MobileOneVariant, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for i, (depth, width, stride) in enumerate(
            zip(variant.depths, variant.widths, variant.strides, strict=True)
        ):
            units: list[nn.Module] = []
            for j in range(depth):
                step = stride if j == 0 else 1
                if i == 0:
                    units.append(MobileOneBlock(in_channels, width, 3, step))
                else:
                    units.append(_unit(in_channels, width, step, variant.num_branches))
                in_channels = width
            stages.append(nn.Sequential(*units))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (N, num_classes)."""
        logits: Tensor = self.classifier(self.flatten(self.pool(self.stages(x))))
        return logits


def _unit(in_channels: int, out_channels: int, stride: int, num_branches: int) -> nn.Sequential:
    depthwise = MobileOneBlock(
        in_channels, in_channels, 3, stride, depthwise=True, num_branches=num_branches
    )
    pointwise = MobileOneBlock(in_channels, out_channels, 1, num_branches=num_branches)
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise))
