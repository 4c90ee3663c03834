"""Structural reparameterization: RepVGG blocks become single 3x3 convolutions.

Source: Ding et al., CVPR 2021, section 3.3. Batch-norm in eval mode is affine, so it folds into
the convolution before it; a 1x1 kernel is a 3x3 kernel with zeros around it, and an identity is a
kernel with a one at its centre. The sums are taken in float64.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_space import PlainBlock, RepVGGBlock

Network = TypeVar("Network", bound=nn.Module)


def reparameterize(network: Network) -> Network:
    """Return the deploy form in eval mode: equal outputs, plain convolutions; input untouched."""
    plain = copy.deepcopy(network).eval()
    blocks = [n for n, m in plain.named_modules() if isinstance(m, RepVGGBlock)]
    for name in blocks:
        block = plain.get_submodule(name)
        assert isinstance(block, RepVGGBlock)
        plain.set_submodule(name, fuse_block(block))
    return plain


@torch.no_grad()
def fuse_block(block: RepVGGBlock) -> PlainBlock:
    """Return the block as one convolution (eval mode)."""
    kernel3, bias3 = fuse_conv_norm(block.conv3x3.weight, block.norm3x3)
    kernel1, bias1 = fuse_conv_norm(block.conv1x1.weight, block.norm1x1)
    kernel, bias = kernel3 + F.pad(kernel1, (1, 1, 1, 1)), bias3 + bias1
    if block.norm_identity is not None:
        scale, shift = norm_as_affine(block.norm_identity)
        kernel[block.identity_out, block.identity_in, 1, 1] += scale
        bias[block.identity_out] += shift
    weight = block.conv3x3.weight
    plain = PlainBlock(block.in_channels, block.out_channels, block.stride)
    plain = plain.to(weight.device, weight.dtype)
    plain.conv.weight.copy_(kernel)
    assert plain.conv.bias is not None
    plain.conv.bias.copy_(bias)
    return plain.eval()


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
