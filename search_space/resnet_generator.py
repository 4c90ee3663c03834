"""The ResNet generator of CycleGAN.

Zhu, Park, Isola and Efros, *Unpaired Image-to-Image Translation using Cycle-Consistent
Adversarial Networks*, ICCV 2017, appendix 7.2 (after Johnson et al., ECCV 2016): two convolutions
halve the map, residual blocks work on it, and two transposed convolutions bring it back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from search_space.unet import check_multiple, initialise


@dataclass(frozen=True, slots=True)
class ResNetGeneratorVariant:
    """Layout of one family member: ``num_blocks`` residual blocks of ``widths[-1]`` channels.

    ``widths`` gives the channels at full, half and quarter size of the image.
    """

    num_blocks: int
    widths: tuple[int, ...] = (64, 128, 256)


RESNET_GENERATOR_VARIANTS: Mapping[str, ResNetGeneratorVariant] = {
    "cyclegan_resnet_6": ResNetGeneratorVariant(6),
    "cyclegan_resnet_9": ResNetGeneratorVariant(9),
}


class ResNetGenerator(nn.Module):
    """Maps an image to one of the same size, with values in [-1, 1].

    Input (N, in_channels, H, W), output (N, out_channels, H, W); H and W are multiples of 4, from
    8. Every convolution but the last is followed by instance norm without parameters, as in the
    authors' code; so a bias would change nothing, and there is none.

    Args:
        variant: layout.
        out_channels: channels of the image that comes out.
        in_channels: channels of the image that goes in.
    """

    def __init__(
        self, variant: ResNetGeneratorVariant, out_channels: int, in_channels: int = 3
    ) -> None:
        super().__init__()
        widths = variant.widths
        first, widest = widths[0], widths[-1]
        self.step = 2 ** (len(widths) - 1)
        self.stem = _normed(nn.Conv2d(in_channels, first, 7, bias=False), padding=3)
        self.encoder, self.decoder = nn.Sequential(), nn.Sequential()
        for k, (wide, wider) in enumerate(pairwise(widths), 1):
            down = nn.Conv2d(wide, wider, 3, stride=2, padding=1, bias=False)
            self.encoder.add_module(f"down{k}", _normed(down))
        self.blocks = nn.Sequential(*[_Residual(widest) for _ in range(variant.num_blocks)])
        for k in range(len(widths) - 1, 0, -1):
            up = nn.ConvTranspose2d(
                widths[k], widths[k - 1], 3, stride=2, padding=1, output_padding=1, bias=False
            )
            self.decoder.add_module(f"up{k}", _normed(up))
        to_image = nn.Conv2d(first, out_channels, 7)
        layers = OrderedDict(pad=nn.ReflectionPad2d(3), conv=to_image, tanh=nn.Tanh())
        self.head = nn.Sequential(layers)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the translated image.

        Raises:
            ValueError: the image cannot be halved twice.
        """
        check_multiple(x, self.step)
        translated: Tensor = self.head(self.decoder(self.blocks(self.encoder(self.stem(x)))))
        return translated


class _Residual(nn.Module):
    """Two 3x3 convolutions, whose result is added to what goes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _normed(nn.Conv2d(width, width, 3, bias=False), padding=1)
        self.second = _normed(nn.Conv2d(width, width, 3, bias=False), padding=1, activates=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.second(self.first(x))
        return result


def _normed(
    conv: nn.Conv2d | nn.ConvTranspose2d, *, padding: int = 0, activates: bool = True
) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if padding:
        layers["pad"] = nn.ReflectionPad2d(padding)
    layers["conv"], layers["norm"] = conv, nn.InstanceNorm2d(conv.out_channels)
    if activates:
        layers["activation"] = nn.ReLU()
    return nn.Sequential(layers)
