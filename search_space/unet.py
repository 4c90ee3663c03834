"""The U-Net generator of pix2pix.

Isola, Zhu, Zhou and Efros, *Image-to-Image Translation with Conditional Adversarial Networks*,
CVPR 2017, appendix 6.1: an encoder of 4x4 convolutions with stride 2, a decoder of transposed
ones, and skip connections that concatenate each level of the encoder to that of the decoder.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class UNetVariant:
    """Layout of one family member: level i halves the map and has ``widths[i]`` channels.

    There is one level per halving, so that an image of 2 ** levels pixels shrinks to one.
    """

    widths: tuple[int, ...]
    num_dropouts: int
    """Innermost layers of the decoder that drop half of their values in training."""

    @property
    def image_size(self) -> int:
        """Height and width (pixels) must be multiples of this."""
        return int(2 ** len(self.widths))


def _variant(levels: int) -> UNetVariant:
    widths = tuple(64 * min(8, 2**level) for level in range(levels))
    return UNetVariant(widths, num_dropouts=levels - 5)


UNET_VARIANTS: Mapping[str, UNetVariant] = {
    f"pix2pix_unet_{2**levels}": _variant(levels) for levels in (6, 7, 8)
}


class UNetGenerator(nn.Module):
    """Maps an image to one of the same size, with values in [-1, 1].

    Input (N, in_channels, H, W), output (N, out_channels, H, W); H and W are multiples of the
    variant's ``image_size``. ``encoder.down<k>`` halves the map for the k-th time and
    ``decoder.up<k>`` undoes it. As in the authors' code there is no norm in the first level, which
    sees the image, nor in the innermost, whose map may be a single pixel.

    Args:
        variant: layout.
        out_channels: channels of the image that comes out.
        in_channels: channels of the image that goes in.
    """

    def __init__(self, variant: UNetVariant, out_channels: int, in_channels: int = 3) -> None:
        super().__init__()
        self.image_size = variant.image_size
        widths, levels = (in_channels, *variant.widths), len(variant.widths)
        self.encoder = nn.ModuleDict(
            {
                f"down{k}": _down(widths[k - 1], widths[k], k == 1, k == levels)
                for k in range(1, levels + 1)
            }
        )
        self.decoder = nn.ModuleDict()
        for k in range(levels, 0, -1):
            read = widths[k] if k == levels else 2 * widths[k]  # with the skip connection
            if k == 1:
                self.decoder[f"up{k}"] = _to_image(read, out_channels)
            else:
                drops = k > levels - variant.num_dropouts
                self.decoder[f"up{k}"] = _up(read, widths[k - 1], drops)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the translated image.

        Raises:
            ValueError: the image cannot be halved that often.
        """
        check_multiple(x, self.image_size)
        skips: list[Tensor] = []
        for down in self.encoder.values():
            x = down(x)
            skips.append(x)
        skips.pop()
        for up in self.decoder.values():
            x = up(x)
            if skips:
                x = torch.cat([x, skips.pop()], dim=1)
        return x


def initialise(network: nn.Module) -> None:
    """Draw weights around 0 and the factors of norms around 1, as both papers do (0.02)."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)


def check_multiple(images: Tensor, step: int) -> None:
    """Raise ``ValueError`` for images (N, C, H, W) whose sides are no multiples of ``step``."""
    height, width = images.shape[2], images.shape[3]
    if height % step or width % step:
        raise ValueError(
            f"images of {height}x{width} pixels do not fit this generator; both sides must be "
            f"multiples of {step}"
        )


def _down(read: int, written: int, is_first: bool, is_innermost: bool) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    has_norm = not (is_first or is_innermost)
    if not is_first:
        layers["activation"] = nn.LeakyReLU(0.2)
    layers["conv"] = nn.Conv2d(read, written, 4, stride=2, padding=1, bias=not has_norm)
    if has_norm:
        layers["norm"] = nn.BatchNorm2d(written)
    return nn.Sequential(layers)


def _up(read: int, written: int, drops: bool) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["activation"] = nn.ReLU()
    layers["conv"] = nn.ConvTranspose2d(read, written, 4, stride=2, padding=1, bias=False)
    layers["norm"] = nn.BatchNorm2d(written)
    if drops:
        layers["dropout"] = nn.Dropout(0.5)
    return nn.Sequential(layers)


def _to_image(read: int, out_channels: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["activation"] = nn.ReLU()
    layers["conv"] = nn.ConvTranspose2d(read, out_channels, 4, stride=2, padding=1)
    layers["tanh"] = nn.Tanh()
    return nn.Sequential(layers)
