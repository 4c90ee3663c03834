from __future__ import annotations

import pytest
import torch
from torch import nn

from search_space import (
    MOBILEONE_VARIANTS,
    REPVGG_VARIANTS,
    VGG_VARIANTS,
    MobileOne,
    MobileOneBlock,
    PlainBlock,
    ReparamBlock,
    ReparamVGG,
    RepVGG,
    RepVGGBlock,
    build_supernet,
    reparameterize,
)


def _randomize_norms(network: nn.Module) -> None:
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.5)
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1)
        nn.init.normal_(norm.bias)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RepVGG(REPVGG_VARIANTS["repvgg_small"], 10),
        lambda: MobileOne(MOBILEONE_VARIANTS["mobileone_small"], 10),
        lambda: ReparamVGG(VGG_VARIANTS["vgg_small_rep"], 10),
    ],
)
def test_every_family_has_a_deploy_form_of_equal_outputs(make):
    torch.manual_seed(0)
    network = make().double().eval()
    _randomize_norms(network)
    plain = reparameterize(network)
    assert not any(isinstance(m, ReparamBlock | nn.BatchNorm2d) for m in plain.modules())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = network(x)
    torch.testing.assert_close(plain(x), expected, rtol=1e-10, atol=1e-10)
    assert expected.std() > 1e-3


def test_the_network_given_is_left_as_it_was():
    network = build_supernet("repvgg_tiny", 10, 1).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    plain = reparameterize(network)
    assert network.training
    assert not plain.training
    assert {n: torch.equal(v, before[n]) for n, v in network.state_dict().items()} == dict.fromkeys(
        before, True
    )
    assert not any(isinstance(m, RepVGGBlock | nn.BatchNorm2d) for m in plain.modules())
    assert sum(isinstance(m, PlainBlock) for m in plain.modules()) == 5


def test_a_block_by_itself_becomes_a_plain_block():
    block = MobileOneBlock(4, 4, depthwise=True).double().train()
    _randomize_norms(block)
    plain = reparameterize(block)
    assert isinstance(plain, PlainBlock)
    assert block.training
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(plain(x), block.eval()(x), rtol=0, atol=1e-10)


def test_blocks_used_at_several_places_stay_shared():
    block = RepVGGBlock(3, 3)
    shared = nn.Sequential(block)
    plain = reparameterize(nn.Sequential(block, nn.Sequential(shared, nn.ReLU()), shared, block))
    assert isinstance(plain[0], PlainBlock)
    assert plain[0] is plain[3] is plain[1][0][0] is plain[2][0]


def test_other_layers_pass_through():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    plain = reparameterize(network)
    assert [type(m) for m in plain] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    x = torch.randn(1, 3, 5, 5)
    assert torch.equal(plain(x), network(x))
