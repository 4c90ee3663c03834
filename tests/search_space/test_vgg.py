import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pas_trainer import reparameterize
from search_space import VGG_VARIANTS, ReparamVGG, RepVGGBlock


def _cost(network: nn.Module, size: int) -> tuple[int, int]:
    """FLOPs (two per multiply-add) and number of parameters."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.empty(1, 3, size, size, device="meta"))
    return counter.get_total_flops(), sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
@pytest.mark.parametrize("size", [224, 32])
def test_deploy_form_costs_what_vgg_convolutions_cost(depth: int, size: int) -> None:
    with torch.device("meta"):
        network = ReparamVGG(VGG_VARIANTS[f"vgg{depth}_rep"], 1000)
        features = torchvision.models.get_model(f"vgg{depth}").features
    blocks = [m for m in network.modules() if isinstance(m, RepVGGBlock)]
    assert len(blocks) == depth - 3  # the paper counts three linear layers
    flops, num_params = _cost(features, size)
    classifier_weights = 512 * 1000
    expected = flops + 2 * classifier_weights, num_params + classifier_weights + 1000
    assert _cost(reparameterize(network), size) == expected


def test_deploy_form_of_vgg16_computes_what_torchvision_computes() -> None:
    torch.manual_seed(0)
    network = reparameterize(ReparamVGG(VGG_VARIANTS["vgg16_rep"], 10))
    features = torchvision.models.vgg16().features[:-1].eval()  # but for its last pooling
    ours = [m for m in network.stages.modules() if isinstance(m, nn.Conv2d)]
    theirs = [m for m in features if isinstance(m, nn.Conv2d)]
    for mine, other in zip(ours, theirs, strict=True):
        mine.load_state_dict(other.state_dict())
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(network.stages(x), features(x), rtol=1e-4, atol=1e-4)


def test_small_network_trains_and_names_its_blocks() -> None:
    torch.manual_seed(0)
    network = ReparamVGG(VGG_VARIANTS["vgg_small_rep"], 10, in_channels=1)
    blocks = [n for n, m in network.named_modules() if isinstance(m, RepVGGBlock)]
    assert blocks == [
        f"stages.{i}.{j}" for i, depth in enumerate((1, 2, 2, 2)) for j in range(depth)
    ]
    images = torch.randn(4, 1, 32, 32)
    assert network.stages(images).shape == (4, 128, 4, 4)
    logits = network(images)
    assert logits.shape == (4, 10)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert any(p.grad.abs().sum() > 0 for p in network.stages[0].parameters())
