"""RepVGG networks with their training-time branches.

Source: Ding et al., *RepVGG: Making VGG-style ConvNets Great Again*, CVPR 2021. A block is
``relu(bn(conv3x3(x)) + bn(conv1x1(x)) + bn(x))``; the last branch exists only where the block
keeps the shape of its input. :mod:`pas_trainer.fuse` folds a block into one 3x3 convolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

DEPLOYED_KERNEL_AREA = 9
"""Taps of the one convolution that a RepVGG block becomes, whatever its branches."""


class RepVGGBlock(nn.Module):
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

    identity_in: Tensor
    identity_out: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        identity: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        if identity is None:
            keeps_shape = in_channels == out_channels and stride == 1
            identity = [(c, c) for c in range(in_channels)] if keeps_shape else []
        self.conv3x3 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm3x3 = nn.BatchNorm2d(out_channels)
        self.conv1x1 = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm1x1 = nn.BatchNorm2d(out_channels)
        self.norm_identity = nn.BatchNorm2d(len(identity)) if identity else None
        pairs = torch.tensor(identity, dtype=torch.long).reshape(-1, 2)
        self.register_buffer("identity_in", pairs[:, 0], persistent=False)
        self.register_buffer("identity_out", pairs[:, 1], persistent=False)
        self._identity_is_full = [tuple(p) for p in identity] == [
            (c, c) for c in range(out_channels)
        ] and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum of the branches."""
        # Striding before the 1x1 convolution is the same function as a strided 1x1 convolution,
        # whose channels_last backward corrupts memory on CPUs below 8 input channels (torch 2.15).
        x_strided = x[:, :, :: self.stride, :: self.stride] if self.stride > 1 else x
        y = self.norm3x3(self.conv3x3(x)) + self.norm1x1(self.conv1x1(x_strided))
        if self.norm_identity is not None:
            if self._identity_is_full:
                y = y + self.norm_identity(x)
            else:
                shared = self.norm_identity(x.index_select(1, self.identity_in))
                y = y.index_add(1, self.identity_out, shared.to(y.dtype))
        return torch.relu(y)


class PlainBlock(nn.Module):
    """The deploy form of a block: one 3x3 convolution with bias, then ReLU. Shapes as there."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``relu(conv(x))``."""
        return torch.relu(self.conv(x))


@dataclass(frozen=True, slots=True)
class RepVGGVariant:
    """Layout of one family member: ``depths[i]`` blocks of ``widths[i]`` channels in stage i."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    """Stride of each stage's first block."""
    image_size: int
    """Height and width (pixels) the variant is meant for; any size of at least 8 works."""


def _imagenet(depths: tuple[int, ...], a: float, b: float) -> RepVGGVariant:
    """Widths of table 2 of the paper: 64a, 128a, 256a in the middle stages, 512b in the last."""
    widths = (min(64, int(64 * a)), int(64 * a), int(128 * a), int(256 * a), int(512 * b))
    return RepVGGVariant((1, *depths), widths, (2, 2, 2, 2, 2), 224)


_A, _B = (2, 4, 14, 1), (4, 6, 16, 1)
REPVGG_VARIANTS: Mapping[str, RepVGGVariant] = {
    "repvgg_tiny": RepVGGVariant((1, 2, 2), (16, 32, 64), (1, 2, 2), 8),
    "repvgg_small": RepVGGVariant((1, 2, 3, 2), (16, 32, 64, 128), (1, 2, 2, 2), 32),
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
        variant: layout (depths and strides count; ``widths`` gives the channels).
        num_classes: number of logits.
        in_channels: channels of the image.
        open_channels: by block name, which of the variant's channels to keep, ascending; missing
            names keep them all.
        deploy: build :class:`PlainBlock` (inference) instead of :class:`RepVGGBlock`.
    """

    def __init__(
        self,
        variant: RepVGGVariant,
        num_classes: int,
        in_channels: int = 3,
        *,
        open_channels: Mapping[str, Sequence[int]] | None = None,
        deploy: bool = False,
    ) -> None:
        super().__init__()
        open_channels = open_channels or {}
        stages: list[nn.Module] = []
        full_in, read = in_channels, list(range(in_channels))
        for i, (depth, width, stride) in enumerate(
            zip(variant.depths, variant.widths, variant.strides, strict=True)
        ):
            blocks: list[nn.Module] = []
            for j in range(depth):
                step = stride if j == 0 else 1
                written = list(open_channels.get(f"stages.{i}.{j}", range(width)))
                if deploy:
                    blocks.append(PlainBlock(len(read), len(written), step))
                else:
                    pairs = _shared(read, written) if full_in == width and step == 1 else []
                    blocks.append(RepVGGBlock(len(read), len(written), step, pairs))
                full_in, read = width, written
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(len(read), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (N, num_classes)."""
        logits: Tensor = self.classifier(self.flatten(self.pool(self.stages(x))))
        return logits


def _shared(read: Sequence[int], written: Sequence[int]) -> list[tuple[int, int]]:
    """Positions (in ``read``, in ``written``) of the channels that are in both."""
    position = {channel: k for k, channel in enumerate(written)}
    return [(k, position[channel]) for k, channel in enumerate(read) if channel in position]
