"""Maths of convolutions and batch-norms: folding, padding, copying some of the channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def strided(x: Tensor, stride: int) -> Tensor:
    """Return every ``stride``-th row and column of (N, C, H, W), the first ones included.

    Before a 1x1 convolution this is the same function as a strided one, whose channels_last
    backward corrupts memory on CPUs below 8 input channels (torch 2.15).
    """
    return x[:, :, ::stride, ::stride] if stride > 1 else x


def fuse_conv_norm(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Fold eval-mode batch-norm into the bias-free convolution before it.

    Args:
        weight: (out, in, k, k).
        norm: over the ``out`` channels.

    Returns:
        Kernel (out, in, k, k) and bias (out,), float64.
    """
    scale, shift = norm_as_affine(norm)
    return weight.double() * scale.view(-1, 1, 1, 1), shift


def norm_as_affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return scale and shift, each (C,) in float64, of a batch-norm in eval mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def pad_kernel(kernel: Tensor, size: int) -> Tensor:
    """Return an odd (out, in, k, k) kernel with zeros around it, (out, in, size, size)."""
    margin = (size - kernel.shape[-1]) // 2
    return F.pad(kernel, (margin,) * 4)


@torch.no_grad()
def copy_norm(source: nn.BatchNorm2d, target: nn.BatchNorm2d, kept: Tensor) -> None:
    """Copy settings, parameters and statistics of the ``kept`` channels (long) to ``target``."""
    target.eps, target.momentum = source.eps, source.momentum
    target.weight.copy_(source.weight[kept])
    target.bias.copy_(source.bias[kept])
    assert source.running_mean is not None
    assert target.running_mean is not None
    assert source.running_var is not None
    assert target.running_var is not None
    target.running_mean.copy_(source.running_mean[kept])
    target.running_var.copy_(source.running_var[kept])
    if source.num_batches_tracked is not None and target.num_batches_tracked is not None:
        target.num_batches_tracked.copy_(source.num_batches_tracked)
