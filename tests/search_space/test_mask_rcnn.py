"""Mask R-CNN networks: torchvision's own, and small ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection, resnet18
from torchvision.ops import FrozenBatchNorm2d

from search_space import (
    DETECTOR_SCOPES,
    TORCHVISION_DETECTORS,
    SupernetConfig,
    build_supernet,
    build_supernet_on_meta,
    slice_network,
    trace_detector,
)
from search_space.mask_rcnn import current_names

FIRST, SECOND = (f"torchvision:{name}" for name in TORCHVISION_DETECTORS)


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("name", TORCHVISION_DETECTORS)
def test_torchvisions_networks_are_what_its_builders_give(name: str) -> None:
    ours: Any = build_supernet_on_meta(f"torchvision:{name}", 5, box_detections_per_img=7)
    with torch.device("meta"):
        theirs = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=5)
    assert shapes(ours) == shapes(theirs)
    assert ours.roi_heads.detections_per_img == 7
    assert all(parameter.requires_grad for parameter in ours.parameters())


def test_frozen_norms_are_those_of_the_published_network() -> None:
    """Its backbone, and its epsilon, as torchvision sets them before it loads the weights."""
    network = build_supernet_on_meta(FIRST, 91, frozen_norms=True)
    with torch.device("meta"):
        backbone = detection.backbone_utils.resnet_fpn_backbone(
            backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d
        )
        theirs = detection.MaskRCNN(backbone, 91)
    assert shapes(network) == shapes(theirs)
    norms = [m for m in network.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(norms) == 53
    assert {norm.eps for norm in norms} == {0.0}
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())


def test_layers_of_the_backbone_can_be_left_untrained() -> None:
    network: Any = build_supernet_on_meta(FIRST, 3, trainable_backbone_layers=3, frozen_norms=True)
    with torch.device("meta"):
        theirs = detection.backbone_utils.resnet_fpn_backbone(
            backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
        )
    trained = {name for name, p in theirs.named_parameters() if p.requires_grad}
    assert {n for n, p in network.backbone.named_parameters() if p.requires_grad} == trained
    assert any(name.startswith("body.layer2") for name in trained)
    assert not any(name.startswith("body.layer1") for name in trained)


@pytest.mark.parametrize("name", [FIRST, SECOND])
def test_torchvisions_networks_are_searched_in_every_scope(name: str) -> None:
    frozen = {"frozen_norms": True} if name == FIRST else {}
    network = build_supernet_on_meta(name, 3, min_size=64, **frozen)
    graph = trace_detector(network, (3, 64, 64))
    assert graph.unsupported_ops() == ()
    writers = [group.producers[0] for group in graph.groups]
    for scope in DETECTOR_SCOPES:
        assert any(writer.startswith(f"{scope}.") for writer in writers), scope
    half = {group.name: list(range(group.size // 2)) for group in graph.groups}
    sliced: Any = slice_network(network, graph, half)
    widths = {name: len(units) for name, units in half.items()}
    assert sum(p.numel() for p in sliced.parameters()) == graph.count_params(widths)
    assert sliced.roi_heads.mask_predictor.conv5_mask.out_channels == 128


def test_old_weight_files_have_names_that_are_brought_up_to_date() -> None:
    """Torchvision's own loading knows the same old names."""
    network = build_supernet("maskrcnn_resnet18_fpn", 3, width=0.125, fpn_channels=4)
    state = network.state_dict()
    old: dict[str, Tensor] = {}
    for name, tensor in state.items():
        kept = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for k in range(4):
            kept = kept.replace(f"mask_head.{k}.0.", f"mask_head.mask_fcn{k + 1}.")
            for blocks in ("inner_blocks", "layer_blocks"):
                kept = kept.replace(f"fpn.{blocks}.{k}.0.", f"fpn.{blocks}.{k}.")
        old[kept] = torch.zeros_like(tensor)
    assert len(set(old) - set(state)) == 2 * (1 + 4 + 8)
    assert current_names(old).keys() == state.keys()
    assert current_names(state).keys() == state.keys()
    network.load_state_dict(dict(old))
    assert not any(tensor.any() for tensor in network.state_dict().values())


def test_the_small_networks_backbone_is_a_resnet() -> None:
    """At full width its layers are torchvision's ResNet-18 without pooling and classifier."""
    network: Any = build_supernet_on_meta("maskrcnn_resnet18_fpn", 3)
    body = shapes(network.backbone.body)
    assert body == {n: s for n, s in shapes(resnet18()).items() if not n.startswith("fc.")}
    theirs = resnet18().eval()
    ours: Any = build_supernet("maskrcnn_resnet18_fpn", 3, fpn_channels=2, head_channels=1)
    ours.backbone.body.load_state_dict({n: t for n, t in theirs.state_dict().items() if n in body})
    x = torch.rand(1, 3, 64, 64)
    last = ours.eval().backbone.body(x)["3"]
    expected = torch.nn.Sequential(*list(theirs.children())[:-2])(x)
    torch.testing.assert_close(last, expected)


def test_options_of_the_small_network() -> None:
    options = {"width": 0.25, "fpn_channels": 24, "head_channels": 12, "min_size": 100}
    network: Any = build_supernet("maskrcnn_resnet18_fpn", 4, 1, **options)
    assert [layer[-1].conv2.out_channels for layer in list(network.backbone.body.values())[4:]] == [
        16,
        32,
        64,
        128,
    ]
    assert network.backbone.out_channels == 24
    assert network.roi_heads.mask_predictor.mask_fcn_logits.out_channels == 4
    assert network.roi_heads.box_head.fc7.out_features == 48
    assert (network.transform.min_size, network.transform.max_size) == ((100,), 166)
    assert network.rpn.anchor_generator.sizes == ((4,), (8,), (16,), (32,), (64,))
    losses = network([torch.rand(1, 60, 90)], [target_of(60, 90)])
    assert set(losses) == {
        "loss_objectness",
        "loss_rpn_box_reg",
        "loss_classifier",
        "loss_box_reg",
        "loss_mask",
    }
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in network.parameters())
    (found,) = network.eval()([torch.rand(1, 60, 90)])
    assert found["masks"].shape[1:] == (1, 60, 90)


def target_of(height: int, width: int) -> dict[str, Tensor]:
    masks = torch.zeros(1, height, width, dtype=torch.uint8)
    masks[0, 10:50, 20:60] = 1
    boxes = torch.tensor([[20.0, 10.0, 60.0, 50.0]])
    return {"boxes": boxes, "labels": torch.tensor([2]), "masks": masks}


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        (FIRST, {"stem": "cifar"}, "unknown option 'stem' of supernet torchvision:maskrcnn_resn"),
        (FIRST, {"weights_backbone": "DEFAULT"}, "option 'weights_backbone' .* cannot be set"),
        (FIRST, {"trainable_backbone_layers": 6}, "is 6; it must be a whole number from 0 to 5"),
        (FIRST, {"min_sise": 64}, "unknown option 'min_sise' .*; did you mean min_size"),
        (SECOND, {"frozen_norms": 1}, "option frozen_norms .* is 1; it must be true or false"),
        ("torchvision:maskrcnn_resnet50", {}, "did you mean maskrcnn_resnet50_fpn"),
        ("torchvision:fasterrcnn_resnet50_fpn", {}, "classification network or Mask R-CNN"),
        ("maskrcnn_resnet50_fpn", {}, "did you mean torchvision:maskrcnn_resnet50_fpn"),
        ("maskrcnn_resnet18_fpn", {"fpn_channels": 0}, "option fpn_channels .* is 0; .* from 1 to"),
        (
            "maskrcnn_resnet18_fpn",
            {"min_size": 64.0},
            "option min_size .* is 64.0; it must be a wh",
        ),
        ("maskrcnn_resnet18_fpn", {"depth": 2}, "unknown option 'depth' .*; known: width, fpn_"),
    ],
)
def test_what_cannot_be_built_is_told_in_one_sentence(
    name: str, options: dict[str, Any], parts: str
) -> None:
    with pytest.raises(ValueError, match=parts) as caught:
        build_supernet(name, 3, **options)
    assert "\n" not in str(caught.value)


def test_torchvisions_detectors_take_colour_images_and_weights_from_files() -> None:
    with pytest.raises(ValueError, match="takes images of 3 channels, not 1"):
        build_supernet(FIRST, 3, 1)
    with pytest.raises(ValueError, match=r"weights 'COCO_V1' .* give a file that ends with"):
        SupernetConfig(name=FIRST, weights="COCO_V1")
    SupernetConfig(name=FIRST, weights="coco.safetensors", options={"frozen_norms": True})
