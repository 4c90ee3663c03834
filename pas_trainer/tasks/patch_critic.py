"""The discriminator of pix2pix and CycleGAN, which judges patches of an image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PatchCritic(nn.Sequential):
    """PatchGAN (Isola et al., CVPR 2017, section 3.2.2): one verdict per patch of 70x70 pixels.

    Input (N, in_channels, H, W), output (N, 1, H / 8 - 2, W / 8 - 2).

    Args:
        in_channels: of an image, or of two that are judged as a pair.
        width: channels of the first layer; 64 in the paper.
        norm: called with a number of channels; the first layer has none.
    """

    def __init__(self, in_channels: int, width: int, norm: Callable[[int], nn.Module]) -> None:
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for factor, stride in ((2, 2), (4, 2), (8, 1)):
            read, written = width * factor // 2, width * factor
            layers += [
                nn.Conv2d(read, written, 4, stride, 1, bias=False),
                norm(written),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*layers, nn.Conv2d(8 * width, 1, 4, 1, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)


def cross_entropy(verdicts: Tensor, real: bool) -> Tensor:
    """Return the loss of pix2pix, on logits (0-d); ``real``: what they should be."""
    return F.binary_cross_entropy_with_logits(verdicts, torch.full_like(verdicts, float(real)))


def least_squares(verdicts: Tensor, real: bool) -> Tensor:
    """Return the loss of CycleGAN (Mao et al., *Least Squares GANs*, ICCV 2017), 0-d."""
    return F.mse_loss(verdicts, torch.full_like(verdicts, float(real)))
