"""VGG-like networks of reparameterizable blocks.

The layouts are configurations A, B, D and E (11 to 19 layers) of Simonyan and Zisserman, *Very
Deep Convolutional Networks for Large-Scale Image Recognition*, ICLR 2015, table 1. Each 3x3
convolution is a RepVGG block; max-pooling halves the map between stages. Global average pooling
and one linear layer take the place of the three fully connected ones, which held most of the
parameters.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from search_space.repvgg import RepVGGBlock


@dataclass(frozen=True, slots=True)
class VGGVariant:
    """Layout of one family member: ``depths[i]`` blocks of ``widths[i]`` channels in stage i.

    Images need at least 2 ** (stages - 1) pixels a side.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]


def _imagenet(*depths: int) -> VGGVariant:
    return VGGVariant(depths, (64, 128, 256, 512, 512))


VGG_VARIANTS: Mapping[str, VGGVariant] = {
    "vgg_small_rep": VGGVariant((1, 2, 2, 2), (16, 32, 64, 128)),
    "vgg11_rep": _imagenet(1, 1, 2, 2, 2),
    "vgg13_rep": _imagenet(2, 2, 2, 2, 2),
    "vgg16_rep": _imagenet(2, 2, 3, 3, 3),
    "vgg19_rep": _imagenet(2, 2, 4, 4, 4),
}


class ReparamVGG(nn.Module):
    """Stages of RepVGG blocks with max-pooling between them, average pooling, linear classifier.

    Input (N, in_channels, H, W), output logits (N, num_classes). Blocks are named
    ``stages.<stage>.<block>``; ``stages.<stage>.pool`` halves the map before each stage but the
    first.

    Args:
        variant: layout (depths count; ``widths`` gives the channels).
        num_classes: number of logits.
        in_channels: channels of the image.
    """

    def __init__(self, variant: VGGVariant, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for i, (depth, width) in enumerate(zip(variant.depths, variant.widths, strict=True)):
            stage: OrderedDict[str, nn.Module] = OrderedDict()
            if i > 0:
                stage["pool"] = nn.MaxPool2d(2)
            for j in range(depth):
                stage[str(j)] = RepVGGBlock(in_channels, width)
                in_channels = width
            stages.append(nn.Sequential(stage))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (N, num_classes)."""
        logits: Tensor = self.classifier(self.flatten(self.pool(self.stages(x))))
        return logits
