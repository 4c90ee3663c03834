"""Mask R-CNN networks: torchvision's, and one of any size for small machines.

He, Gkioxari, Dollár and Girshick, *Mask R-CNN*, ICCV 2017, on feature pyramids (Lin et al., CVPR
2017), in torchvision's form: in evaluation a list of images (3, H, W) in [0, 1] goes in, and one
dict per image with ``boxes``, ``labels``, ``scores`` and ``masks`` comes out. In training images
and targets go in, and a dict of losses comes out.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

TORCHVISION_DETECTORS = ("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2")
"""Torchvision's builders of a Mask R-CNN."""

_OLD_NAMES = (
    (r"^(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2"),
    (r"(\.fpn\.\w+_blocks\.\d)\.(weight|bias)$", r"\1.0.\2"),
    *((rf"\.mask_fcn{k + 1}\.", f".{k}.0.") for k in range(4)),
)


@dataclass(frozen=True, slots=True)
class MaskRCNNVariant:
    """Layout of a Mask R-CNN: stage i of the backbone has ``depths[i]`` blocks of ``widths[i]``."""

    whole_number_options: ClassVar[tuple[str, ...]] = (
        "fpn_channels",
        "head_channels",
        "min_size",
        "max_size",
        "rpn_post_nms_top_n_train",
        "box_batch_size_per_image",
        "rpn_post_nms_top_n_test",
        "box_detections_per_img",
    )
    """Fields that options of the same name set."""

    depths: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    fpn_channels: int = 256
    """Channels of each level of the feature pyramid."""
    head_channels: int = 256
    """Channels of the mask head's layers; those of the box head have four times as many."""
    min_size: int = 320
    """Pixels to which the shorter side of an image is resized. Anchors are in proportion."""
    max_size: int | None = None
    """Pixels that the longer side does not exceed, before ``min_size``; ``None``: 5/3 of it."""
    rpn_post_nms_top_n_train: int = 2000
    """Regions per image that objects are looked for among in training."""
    box_batch_size_per_image: int = 512
    """Regions per image that the box head is trained on: most of what a step costs."""
    rpn_post_nms_top_n_test: int = 300
    """Regions per image that the box head sees in evaluation."""
    box_detections_per_img: int = 100
    """Most detections per image: regions that the mask head sees in evaluation."""


MASK_RCNN_VARIANTS: Mapping[str, MaskRCNNVariant] = {"maskrcnn_resnet18_fpn": MaskRCNNVariant()}


def mask_rcnn(variant: MaskRCNNVariant, num_classes: int, in_channels: int = 3) -> nn.Module:
    """Build torchvision's Mask R-CNN on a ResNet of basic blocks, small ones included.

    All layers train and norms are ordinary batch-norms, since there are no weights to start from.

    Args:
        variant: layout.
        num_classes: kinds of objects, the background included as class 0.
        in_channels: channels of the images.
    """
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

    channels, hidden = variant.fpn_channels, variant.head_channels
    levels = {f"layer{k + 1}": str(k) for k in range(len(variant.widths))}
    backbone = BackboneWithFPN(
        _resnet(variant, in_channels), levels, list(variant.widths), channels
    )
    # From 1/25 of the shorter side on, twice as large at each level: torchvision's shares.
    sizes = tuple((max(1, round(variant.min_size * 2**k / 25)),) for k in range(len(levels) + 1))
    ratios = ((0.5, 1.0, 2.0),) * len(sizes)
    images: dict[str, Any] = {}
    if in_channels != 3:  # torchvision's own are ImageNet's
        images = {"image_mean": [0.5] * in_channels, "image_std": [0.25] * in_channels}
    network: nn.Module = MaskRCNN(
        backbone,
        min_size=variant.min_size,
        max_size=variant.max_size or variant.min_size * 5 // 3,
        rpn_anchor_generator=AnchorGenerator(sizes, ratios),
        rpn_post_nms_top_n_train=variant.rpn_post_nms_top_n_train,
        rpn_post_nms_top_n_test=variant.rpn_post_nms_top_n_test,
        box_batch_size_per_image=variant.box_batch_size_per_image,
        box_head=TwoMLPHead(channels * 7**2, 4 * hidden),
        box_predictor=FastRCNNPredictor(4 * hidden, num_classes),
        box_detections_per_img=variant.box_detections_per_img,
        mask_head=MaskRCNNHeads(channels, (hidden,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(hidden, hidden, num_classes),
        **images,
    )
    return network


def torchvision_mask_rcnn(
    name: str,
    num_classes: int,
    *,
    frozen_norms: bool = False,
    trainable_backbone_layers: int = 5,
    **arguments: Any,
) -> nn.Module:
    """Call torchvision's builder of that name, weights at random.

    Args:
        name: one of :data:`TORCHVISION_DETECTORS`.
        num_classes: kinds of objects, the background included as class 0.
        frozen_norms: norms that never train, as in the networks torchvision publishes weights of
            (of the first with an epsilon of 0, of the second without frozen norms).
        trainable_backbone_layers: layers of the ResNet that train, counted from the last, 0 to 5.
        arguments: of :class:`torchvision.models.detection.MaskRCNN`.

    See :func:`check_options` for what is refused.
    """
    from torchvision.models import get_model

    count = trainable_backbone_layers
    network: Any = get_model(
        name, weights=None, weights_backbone=None, num_classes=num_classes, **arguments
    )
    if frozen_norms:
        freeze_norms(network, eps=0.0 if name == TORCHVISION_DETECTORS[0] else 1e-5)
    if count < 5:
        trained = ("layer4", "layer3", "layer2", "layer1", "conv1")[:count]
        for key, parameter in network.backbone.body.named_parameters():
            parameter.requires_grad_(key.startswith(trained))
    detector: nn.Module = network
    return detector


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Check the options of :func:`torchvision_mask_rcnn`; torchvision ignores those it lacks.

    Raises:
        ValueError: unknown option, or an option out of range.
    """
    from torchvision.models.detection import MaskRCNN

    own = ("frozen_norms", "trainable_backbone_layers")
    theirs = set(inspect.signature(MaskRCNN).parameters) - {"backbone", "num_classes", "kwargs"}
    for option in options:
        if option not in {*own, *theirs}:
            close = difflib.get_close_matches(option, [*own, *theirs], n=1)
            hint = (
                f"did you mean {close[0]}?" if close else f"known: {', '.join(own)} and MaskRCNN's"
            )
            raise ValueError(f"unknown option {option!r} of supernet {name}; {hint}")
    frozen, count = options.get("frozen_norms", False), options.get("trainable_backbone_layers", 5)
    if not isinstance(frozen, bool):
        message = f"option frozen_norms of supernet {name} is {frozen!r}; it must be true or false"
        raise ValueError(message)  # noqa: TRY004 - bad input is a ValueError here
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 5:
        raise ValueError(
            f"option trainable_backbone_layers of supernet {name} is {count!r}; it must be a whole "
            "number from 0 to 5"
        )


def current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a Mask R-CNN under the names torchvision gives them now.

    The files of its first weights have older ones, which ``load_state_dict`` understands.
    """
    renamed = {}
    for name, tensor in state.items():
        current = name
        for old, new in _OLD_NAMES:
            current = re.sub(old, new, current)
        renamed[current] = tensor
    return renamed


def freeze_norms(network: nn.Module, eps: float) -> None:
    """Replace every batch-norm by torchvision's frozen one, in place, with the same numbers."""
    from torchvision.ops import FrozenBatchNorm2d

    for name, norm in list(network.named_modules()):
        if isinstance(norm, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(norm.num_features, eps)
            frozen.load_state_dict(norm.state_dict())
            network.set_submodule(name, frozen)


def _resnet(variant: MaskRCNNVariant, in_channels: int) -> nn.Sequential:
    """Torchvision's ResNet of basic blocks without pooling and classifier, of any widths."""
    from torchvision.models.resnet import BasicBlock, conv1x1

    first = variant.widths[0]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = nn.Conv2d(in_channels, first, 7, stride=2, padding=3, bias=False)
    layers["bn1"], layers["relu"] = nn.BatchNorm2d(first), nn.ReLU(inplace=True)
    layers["maxpool"] = nn.MaxPool2d(3, stride=2, padding=1)
    read = first
    for k, (depth, width) in enumerate(zip(variant.depths, variant.widths, strict=True)):
        stride = 1 if k == 0 else 2
        blocks: list[nn.Module] = []
        for j in range(depth):
            down = None
            if j == 0 and (stride, read) != (1, width):
                down = nn.Sequential(conv1x1(read, width, stride), nn.BatchNorm2d(width))
            blocks.append(BasicBlock(read, width, stride if j == 0 else 1, down))
            read = width
        layers[f"layer{k + 1}"] = nn.Sequential(*blocks)
    resnet = nn.Sequential(layers)
    for layer in resnet.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return resnet
