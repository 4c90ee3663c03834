"""Pictures of what a network does, for a person to look at: outlined objects, translated images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate, pad

from pas_trainer.segmentation_metrics import MASK_THRESHOLD

Picture = NDArray[np.uint8]
"""(H, W, 3)."""

MIN_SCORE = 0.5
"""Detections below it are not drawn."""
_CELL = 320
"""Pixels of an image's longer side."""
_GAP = 8
_TITLE = 20
_MASK_ALPHA = 0.55
_COLOURS = (
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (214, 39, 40),
    (148, 103, 189),
    (140, 86, 75),
    (227, 119, 194),
    (188, 189, 34),
    (23, 190, 207),
)


def instance_picture(
    images: Sequence[Tensor],
    targets: Sequence[Mapping[str, Tensor]],
    outputs: Sequence[Mapping[str, Tensor]],
    classes: Sequence[str],
) -> Picture:
    """Draw what is on images beside what a detector found there, one row per image.

    Args:
        images: (3, h, w), uint8 or floats in [0, 1], of any sizes.
        targets: what is there: ``boxes`` (n, 4), ``labels`` (n,), ``masks`` (n, h, w).
        outputs: what was found, as torchvision's detectors say it: ``scores`` (n,) too, and
            ``masks`` (n, 1, h, w) in [0, 1].
        classes: names of labels 1, 2, ...

    Returns:
        uint8 (H, W, 3), rows of at most 320 pixels.

    Raises:
        ValueError: there are no images.
    """
    rows = []
    for image, target, output in zip(images, targets, outputs, strict=True):
        names = [classes[int(label) - 1] for label in target["labels"]]
        there = _outlined(image, target["boxes"], target["masks"][:, None], names)
        rows.append([there, _found(image, output, classes)])
    return _table(rows, ("annotated", "found"))


def translation_picture(
    inputs: Tensor,
    outputs: Tensor,
    targets: Tensor,
    *,
    titles: tuple[str, str, str] = ("input", "output", "target"),
) -> Picture:
    """Draw what was translated, what became of it and what should have, one row per image.

    Args:
        inputs, outputs, targets: (N, 3, h, w), uint8 or floats in [0, 1].
        titles: of the three columns.

    Returns:
        uint8 (H, W, 3), rows of at most 320 pixels.

    Raises:
        ValueError: there are no images.
    """
    rows = zip(inputs, outputs, targets, strict=True)
    return _table([[_enlarged(image) for image in row] for row in rows], titles)


def outlined_picture(
    image: Tensor, output: Mapping[str, Tensor], classes: Sequence[str]
) -> Picture:
    """Draw what a detector found on one image, arguments as of :func:`instance_picture`."""
    drawn: Picture = _found(image, output, classes).permute(1, 2, 0).numpy()
    return drawn


def _found(image: Tensor, output: Mapping[str, Tensor], classes: Sequence[str]) -> Tensor:
    sure = output["scores"] >= MIN_SCORE
    labels, scores = output["labels"][sure].tolist(), output["scores"][sure].tolist()
    names = [f"{classes[n - 1]} {s:.2f}" for n, s in zip(labels, scores, strict=True)]
    return _outlined(image, output["boxes"][sure], output["masks"][sure], names)


def _outlined(image: Tensor, boxes: Tensor, masks: Tensor, names: Sequence[str]) -> Tensor:
    """Return an image with objects coloured and named, uint8 (3, h, w) of a cell's size.

    Args:
        image: (3, h, w).
        boxes: (n, 4), in its pixels.
        masks: (n, 1, h, w) in [0, 1].
        names: of each object.
    """
    from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

    drawn = _enlarged(image)
    if not names:
        return drawn
    masks = interpolate(masks.detach().cpu().float(), drawn.shape[1:], mode="bilinear")
    scale = torch.tensor(drawn.shape[1:]).flip(0) / torch.tensor(image.shape[1:]).flip(0)
    colours = [_COLOURS[i % len(_COLOURS)] for i in range(len(names))]
    drawn = draw_segmentation_masks(
        drawn, masks[:, 0] > MASK_THRESHOLD, alpha=_MASK_ALPHA, colors=colours
    )
    edges = boxes.detach().cpu().float() * scale.repeat(2)
    named: Tensor = draw_bounding_boxes(
        drawn,
        edges,
        labels=list(names),
        colors=colours,
        width=2,
        label_colors="white",
        fill_labels=True,
    )
    return named


def _enlarged(image: Tensor) -> Tensor:
    """Return an image in bytes, its longer side brought to a cell's, (3, h, w)."""
    if image.is_floating_point():
        image = image.detach().clamp(0, 1).mul(255).round().to(torch.uint8)
    scale = _CELL / max(image.shape[1:])
    size = [max(1, round(side * scale)) for side in image.shape[1:]]
    # Pixels of small images stay squares.
    mode, antialias = ("nearest-exact", False) if scale >= 2 else ("bilinear", True)
    return interpolate(image.cpu()[None], size, mode=mode, antialias=antialias)[0]


def _table(rows: Sequence[Sequence[Tensor]], titles: Sequence[str]) -> Picture:
    """Put images, uint8 (3, h, w), into rows and columns on white, below titles."""
    if not rows:
        raise ValueError("there are no images to draw")
    width = max(image.shape[2] for row in rows for image in row)
    strips = []
    for row in rows:
        height = max(image.shape[1] for image in row)
        cells = [_padded(image, height, width) for image in row]
        strips.append(torch.cat([pad(cell, (0, _GAP, 0, _GAP), value=255) for cell in cells], 2))
    table = pad(torch.cat(strips, 1), (_GAP, 0, _TITLE, 0), value=255)
    picture = Image.fromarray(table.permute(1, 2, 0).numpy())
    draw = ImageDraw.Draw(picture)
    for i, title in enumerate(titles):
        draw.text((_GAP + i * (width + _GAP), 4), title, fill=(0, 0, 0))
    return np.array(picture)


def _padded(image: Tensor, height: int, width: int) -> Tensor:
    return pad(image, (0, width - image.shape[2], 0, height - image.shape[1]), value=255)
