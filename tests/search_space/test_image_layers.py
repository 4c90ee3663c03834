from typing import Any

import pytest
import torch
from torch import Tensor, nn

from search_space import build_supernet_on_meta

# Height and width of the last convolution's map for 32x32 images, by each paper's layout: the total
# stride of the published network up to there (32; VGG 16), without the stem's share of it (4 where
# a pooling follows the first convolution at once or it has stride 4, else 2).
LAST_MAP = {
    "resnet18": 4,
    "resnext50_32x4d": 4,
    "wide_resnet50_2": 4,
    "regnet_x_400mf": 2,
    "mobilenet_v2": 2,
    "mobilenet_v3_small": 2,
    "efficientnet_b0": 2,
    "mnasnet0_5": 2,
    "convnext_tiny": 4,
    "densenet121": 4,
    "shufflenet_v2_x0_5": 4,
    "vgg11_bn": 4,
    "googlenet": 4,
}


def _last_map(network: nn.Module, image: Tensor) -> tuple[int, int]:
    """Size of the last map with more than one position that a convolution or norm leaves."""
    sizes: list[tuple[int, int]] = []

    def remember(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d) and output.shape[-1] > 1:
            sizes.append((output.shape[-2], output.shape[-1]))

    for module in network.modules():
        module.register_forward_hook(remember)
    network.eval()(image)
    return sizes[-1]


@pytest.mark.parametrize("name", LAST_MAP)
def test_the_small_stem_keeps_the_resolution(name: str) -> None:
    image = torch.empty(2, 3, 32, 32, device="meta")
    network = build_supernet_on_meta(f"torchvision:{name}", 10, stem="cifar")
    assert _last_map(network, image) == (LAST_MAP[name],) * 2
    assert network(image).shape == (2, 10)


def test_a_resnet_gets_the_papers_stem() -> None:
    network = build_supernet_on_meta("torchvision:resnet18", 10, stem="cifar")
    conv = network.get_submodule("conv1")
    assert isinstance(conv, nn.Conv2d)
    assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
    assert conv.bias is None
    assert isinstance(network.get_submodule("maxpool"), nn.Identity)


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "maxvit_t"])
def test_networks_of_patches_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"option stem of torchvision:{name}: no way is known"):
        build_supernet_on_meta(f"torchvision:{name}", 10, stem="cifar")


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "vgg11", "densenet121", "convnext_tiny", "vit_b_32"]
)
@pytest.mark.parametrize("in_channels", [1, 4])
def test_other_image_channels(name: str, in_channels: int) -> None:
    usual = build_supernet_on_meta(f"torchvision:{name}", 10)
    network = build_supernet_on_meta(f"torchvision:{name}", 10, in_channels)
    assert network(torch.empty(2, in_channels, 224, 224, device="meta")).shape == (2, 10)
    before, after = usual.state_dict(), network.state_dict()
    changed = [n for n in before if before[n].shape != after[n].shape]
    assert list(before) == list(after)
    assert len(changed) == 1
    assert after[changed[0]].shape[1] == in_channels


def test_images_read_in_several_places_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot take images of 1 channels: not one convolution"):
        build_supernet_on_meta("torchvision:googlenet", 10, 1, transform_input=True)
