import pytest
import torch
from torch import nn

from search_space import (
    MASK_RCNN_VARIANTS,
    MOBILEONE_VARIANTS,
    REPVGG_VARIANTS,
    RESNET_GENERATOR_VARIANTS,
    UNET_VARIANTS,
    VGG_VARIANTS,
    SupernetConfig,
    build_supernet,
    build_supernet_on_meta,
    is_weights_file,
    supernet_names,
)


def test_every_name_builds() -> None:
    classifiers = (*REPVGG_VARIANTS, *MOBILEONE_VARIANTS, *VGG_VARIANTS)
    generators = (*UNET_VARIANTS, *RESNET_GENERATOR_VARIANTS)
    assert supernet_names() == (*classifiers, *generators, *MASK_RCNN_VARIANTS)
    for name in classifiers:
        with torch.device("meta"):
            model = build_supernet(name, num_classes=5, in_channels=1)
            assert model(torch.empty(2, 1, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(
    ("width", "expected"), [(0.5, [8, 16, 32]), (1.25, [20, 40, 80]), (0.001, [1, 1, 1])]
)
def test_width_option_multiplies_every_layer(width: float, expected: list[int]) -> None:
    model = build_supernet("repvgg_tiny", 10, width=width)
    assert [stage[-1].out_channels for stage in model.stages] == expected


@pytest.mark.parametrize("width", [0, -1, 16.5, float("nan"), float("inf")])
def test_width_out_of_range_is_refused(width: float) -> None:
    with pytest.raises(ValueError, match=f"option width of supernet repvgg_tiny is {width}"):
        build_supernet("repvgg_tiny", 10, width=width)


def test_unknown_names_are_refused_with_a_hint() -> None:
    with pytest.raises(ValueError, match="unknown supernet 'repvgg-tiny'; did you mean"):
        build_supernet("repvgg-tiny", 10)
    with pytest.raises(ValueError, match=r"unknown supernet 'zzz'; known: repvgg_tiny, "):
        SupernetConfig(name="zzz")
    with pytest.raises(ValueError, match="unknown option 'depth' of supernet repvgg_a0"):
        SupernetConfig(name="repvgg_a0", options={"width": 1.0, "depth": 2})


def test_supernet_follows_the_global_seed() -> None:
    torch.manual_seed(3)
    first = build_supernet("repvgg_tiny", 10).state_dict()
    torch.manual_seed(3)
    second = build_supernet("repvgg_tiny", 10).state_dict()
    assert all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("name", ["torchvision:regnet_x_400mf", "torchvision:resnet18"])
def test_shapes_on_meta_are_those_of_the_real_network(name: str) -> None:
    """RegNets compute their widths with tensors, which the meta device cannot."""
    before = torch.get_rng_state()
    shapes = build_supernet_on_meta(name, 7, stem="cifar")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(t.is_meta for t in (*shapes.parameters(), *shapes.buffers()))
    real = build_supernet(name, 7, stem="cifar")
    assert {n: t.shape for n, t in shapes.state_dict().items()} == {
        n: t.shape for n, t in real.state_dict().items()
    }


def test_a_bare_name_of_torchvision_is_hinted_at() -> None:
    with pytest.raises(ValueError, match=r"did you mean torchvision:resnet18\?"):
        SupernetConfig(name="resnet18")
    with pytest.raises(ValueError, match=r"did you mean torchvision:mobilenet_v2\?"):
        SupernetConfig(name="torchvison:mobilenet_v2")


def test_every_option_of_a_family_is_checked_before_building() -> None:
    with pytest.raises(ValueError, match="option width of supernet repvgg_tiny is 'wide'"):
        SupernetConfig(name="repvgg_tiny", options={"width": "wide"})


@pytest.mark.parametrize(
    ("name", "weights", "parts"),
    [
        ("repvgg_tiny", "DEFAULT", "'DEFAULT' of supernet repvgg_tiny .* a file that ends"),
        ("torchvision:resnet18", "IMAGENET1K_V9", "known; give IMAGENET1K_V1, DEFAULT, or a file"),
        ("import:a.b:c", "pretrained", "'pretrained' of supernet import:a.b:c are not known"),
    ],
)
def test_unknown_weights_are_refused(name: str, weights: str, parts: str) -> None:
    with pytest.raises(ValueError, match=parts):
        SupernetConfig(name=name, weights=weights)


def test_published_weights_are_known_by_torchvisions_names() -> None:
    assert SupernetConfig(name="torchvision:resnet50", weights="IMAGENET1K_V2").weights
    assert not is_weights_file("IMAGENET1K_V2")
    assert is_weights_file("a/b.safetensors")
    assert is_weights_file("net.pt")


def test_families_take_other_images() -> None:
    network = build_supernet("repvgg_tiny", 4, in_channels=1)
    assert isinstance(network, nn.Module)
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 4)
