"""Where channels are searched in a detector, and how often its parts run.

Which boxes a detector keeps depends on values, so it is traced in parts, its scopes. The heads run
once per region; their costs count for as many regions as an image can have.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from search_space.channel_graph import ChannelGraph
from search_space.fakes import device_of
from search_space.trace import trace_channels

DETECTOR_SCOPES = (
    "backbone",
    "rpn.head",
    "roi_heads.box_head",
    "roi_heads.mask_head",
    "roi_heads.mask_predictor",
)
"""What is searched in a detector. The channels that pass from one part to the next stay."""


def detector_calls(network: nn.Module, scopes: Sequence[str] = DETECTOR_SCOPES) -> dict[str, int]:
    """Return how many regions of an image at most reach each of the scopes that see regions.

    In evaluation, the box head sees those that the region proposal network keeps, and the mask
    head sees the detections. Scopes that run once per image are left out.

    Args:
        network: a detector of torchvision's kind.
        scopes: to count for.

    Raises:
        ValueError: the network has no such parts.
    """
    parts: Any = network
    try:
        num_boxes = parts.rpn._post_nms_top_n["testing"]
        num_detections = parts.roi_heads.detections_per_img
    except AttributeError:
        raise ValueError(
            f"{type(network).__name__} is no detector of torchvision's kind: it has no rpn and "
            "roi_heads"
        ) from None
    regions = {"roi_heads.box_": num_boxes, "roi_heads.mask_": num_detections}
    return {
        scope: count
        for scope in scopes
        for prefix, count in regions.items()
        if scope.startswith(prefix)
    }


def trace_detector(
    network: nn.Module,
    shape: tuple[int, int, int],
    *,
    scope: Sequence[str] = DETECTOR_SCOPES,
    pinned: Sequence[str] = (),
) -> ChannelGraph:
    """Trace a detector for images of ``shape`` (C, H, W); it may be on the meta device.

    Args:
        network: a detector of torchvision's kind.
        shape: of one image, before the detector resizes it.
        scope: where to search; none: :data:`DETECTOR_SCOPES`.
        pinned: see :func:`search_space.trace_channels`.

    Raises:
        ValueError: it is no detector, or nothing can be searched, see
            :func:`search_space.trace_channels`.
    """
    scopes = tuple(scope) or DETECTOR_SCOPES
    calls = detector_calls(network, scopes)
    dtype = next((p.dtype for p in network.parameters()), torch.float32)
    image = torch.zeros(shape, dtype=dtype, device=device_of(network))
    example: Any = copy.deepcopy(network)  # that sees as little as it can: shapes are the same
    example.rpn._post_nms_top_n = {**example.rpn._post_nms_top_n, "testing": 1}
    example.roi_heads.detections_per_img = 1
    return trace_channels(example, ([image],), scope=scopes, pinned=pinned, calls=calls)
