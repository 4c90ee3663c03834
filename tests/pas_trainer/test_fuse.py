from __future__ import annotations

import pytest
import torch
from torch import nn

from pas_trainer import reparameterize
from pas_trainer.fuse import fuse_block, fuse_conv_norm
from search_space import PlainBlock, RepVGGBlock, build_supernet


def test_conv_and_norm_fold_into_one_convolution():
    conv = nn.Conv2d(3, 5, 3, padding=1, bias=False).double()
    norm = nn.BatchNorm2d(5).double().eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    kernel, bias = fuse_conv_norm(conv.weight, norm)
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    folded = nn.functional.conv2d(x, kernel, bias, padding=1)
    torch.testing.assert_close(folded, norm(conv(x)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("c_in", "c_out", "stride", "identity"),
    [(4, 4, 1, None), (3, 5, 2, None), (4, 3, 1, [(0, 2), (3, 0)]), (1, 1, 1, [])],
)
def test_a_block_becomes_one_convolution(c_in, c_out, stride, identity):
    block = RepVGGBlock(c_in, c_out, stride, identity).double().eval()
    for norm in (m for m in block.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(2, c_in, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(fuse_block(block)(x), block(x), rtol=0, atol=1e-12)


def test_the_network_given_is_left_as_it_was():
    network = build_supernet("repvgg_tiny", 10, 1).train()
    plain = reparameterize(network)
    assert network.training
    assert any(isinstance(m, RepVGGBlock) for m in network.modules())
    assert not any(isinstance(m, RepVGGBlock | nn.BatchNorm2d) for m in plain.modules())
    assert sum(isinstance(m, PlainBlock) for m in plain.modules()) == 5
