"""The networks that are checked: how each is built and what reaches it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models import detection, segmentation

from search_space import build_supernet

NUM_CLASSES = 91
"""Classes of the detectors and segmenters."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One network to check.

    Attributes:
        name: in the table.
        kind: ``classification``, ``family`` (our own), ``segmentation`` or ``detection``.
        build: makes the network with random weights.
        image_size: height and width of the images.
        scope: submodules to search in; none: the whole network.
        is_large: too large to be checked beside another one.
        in_subset: checked by default.
    """

    name: str
    kind: str
    build: Callable[[], nn.Module]
    image_size: int
    scope: tuple[str, ...] = ()
    is_large: bool = False
    in_subset: bool = False

    def inputs(self, batch_size: int, dtype: torch.dtype) -> tuple[Any, ...]:
        """Return positional arguments with ``batch_size`` random images."""
        images = torch.rand(batch_size, 3, self.image_size, self.image_size, dtype=dtype)
        return (list(images),) if self.kind == "detection" else (images,)

    def training_inputs(self, batch_size: int) -> tuple[Any, ...]:
        """Return float32 arguments of a training step; detectors get objects to find."""
        args = self.inputs(batch_size, torch.float32)
        if self.kind != "detection":
            return args
        mask = torch.zeros(1, self.image_size, self.image_size, dtype=torch.uint8)
        low, high = self.image_size // 4, self.image_size * 3 // 4
        mask[:, low:high, low:high] = 1
        box = torch.tensor([[low, low, high, high]], dtype=torch.float32)
        target = {"boxes": box, "labels": torch.tensor([1]), "masks": mask}
        return (*args, [target] * batch_size)


def all_subjects() -> list[Subject]:
    """Return every network of the table, the large ones last."""
    found = [*_classification(), *_families(), *_segmentation(), *_detection()]
    return sorted(found, key=lambda subject: subject.is_large)


_SUBSET = {
    *("alexnet", "densenet121", "efficientnet_b0", "googlenet", "mobilenet_v2", "regnet_x_400mf"),
    *("mobilenet_v3_small", "resnet18", "resnet50", "shufflenet_v2_x0_5", "squeezenet1_1"),
    *("repvgg_a0", "mobileone_s0", "lraspp_mobilenet_v3_large"),
}
_SIZES = {"inception_v3": 299, "maxvit_t": 224, "vit_h_14": 56}
_LARGE = 150_000_000


def _classification() -> list[Subject]:
    subjects = []
    for name in torchvision.models.list_models(module=torchvision.models):
        size = _SIZES.get(name, 128 if name.startswith(("alexnet", "swin")) else 64)
        options: dict[str, Any] = {}
        if name in {"googlenet", "inception_v3"}:
            options["init_weights"] = False
        if name.startswith("vit"):
            options["image_size"] = size
        weights = torchvision.models.get_model_weights(name)
        num_params = next(iter(weights)).meta["num_params"]
        subjects.append(
            Subject(
                name=name,
                kind="classification",
                build=functools.partial(_torchvision_network, name, options),
                image_size=size,
                is_large=num_params > _LARGE,
                in_subset=name in _SUBSET,
            )
        )
    return subjects


def _torchvision_network(name: str, options: dict[str, Any]) -> nn.Module:
    network: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return network


def _families() -> list[Subject]:
    names = ["repvgg_small", "repvgg_a0", "mobileone_small", "mobileone_s0"]
    names += ["vgg_small_rep", "vgg11_rep"]
    return [
        Subject(
            name=name,
            kind="family",
            build=functools.partial(build_supernet, name, 1000),
            image_size=64,
            in_subset=name in _SUBSET,
        )
        for name in names
    ]


def _segmentation() -> list[Subject]:
    scopes: dict[str, tuple[str, ...]] = {
        "deeplabv3_resnet50": ("backbone", "classifier"),
        "deeplabv3_mobilenet_v3_large": (),
        "lraspp_mobilenet_v3_large": (),
    }
    return [
        Subject(
            name=name,
            kind="segmentation",
            build=functools.partial(
                getattr(segmentation, name),
                weights=None,
                weights_backbone=None,
                num_classes=NUM_CLASSES,
            ),
            image_size=128,
            scope=scope,
            in_subset=name in _SUBSET,
        )
        for name, scope in scopes.items()
    ]


def _detection() -> list[Subject]:
    box, mask = "roi_heads.box_head", ("roi_heads.mask_head", "roi_heads.mask_predictor")
    scopes = {
        "fasterrcnn_mobilenet_v3_large_320_fpn": ("backbone", box),
        "fasterrcnn_resnet50_fpn": ("backbone", box),
        "fasterrcnn_resnet50_fpn_v2": ("backbone", box),
        "maskrcnn_resnet50_fpn": ("backbone", box, *mask),
        "maskrcnn_resnet50_fpn_v2": ("backbone", box, *mask),
    }
    return [
        Subject(
            name=name,
            kind="detection",
            build=functools.partial(
                getattr(detection, name),
                weights=None,
                weights_backbone=None,
                num_classes=NUM_CLASSES,
                min_size=160,
                max_size=192,
                rpn_post_nms_top_n_train=200,
                rpn_post_nms_top_n_test=200,
                box_score_thresh=0.0,
                box_detections_per_img=5,
            ),
            image_size=160,
            scope=scope,
        )
        for name, scope in scopes.items()
    ]
