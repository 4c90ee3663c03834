"""How well objects are outlined: COCO's mean average precision, counted by torchmetrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from pas_trainer.differences import largest_error

MASK_THRESHOLD = 0.5
"""A pixel is the object's where a detector's mask, in [0, 1], is above it."""

_NAMES = {
    "mask_map": "segm_map",
    "box_map": "bbox_map",
    "mask_map_50": "segm_map_50",
    "box_map_50": "bbox_map_50",
}


class MaskPrecision:
    """Average precision of masks and boxes over all batches, as COCO's own evaluation counts it.

    ``mask_map`` and ``box_map`` are averaged over classes and over the overlaps (intersection over
    union) 0.5, 0.55, ..., 0.95 from which a detection counts as right; ``mask_map_50`` and
    ``box_map_50`` are those at 0.5. At most the 100 best detections of an image count. Nothing is
    exchanged with other processes: one that evaluates a share of the images gets that share's
    figures.

    Example::

        precision = MaskPrecision()
        for images, targets in data.test.eval_batches(2):
            precision.update(model([image / 255 for image in images]), targets)
        precision.compute()["mask_map"]
    """

    def __init__(self) -> None:
        from torchmetrics.detection import MeanAveragePrecision

        # COCO's thresholds; torchmetrics' own are rounded to float32, so that an overlap of exactly
        # 0.6, not rare among small masks, would be too little for 0.6.
        self._metric: Any = MeanAveragePrecision(
            iou_type=("bbox", "segm"),
            iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
            rec_thresholds=np.linspace(0, 1, 101).tolist(),
            backend="pycocotools",
            sync_on_compute=False,
        )
        self._metric.warn_on_many_detections = False

    def update(
        self, outputs: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]
    ) -> None:
        """Add a batch.

        Args:
            outputs: of one of torchvision's detectors, per image: ``boxes`` (n, 4), ``labels``
                (n,), ``scores`` (n,), ``masks`` (n, 1, h, w) in [0, 1].
            targets: what is there, per image: ``boxes`` (m, 4), ``labels`` (m,), ``masks``
                (m, h, w).
        """
        found = [
            {
                "boxes": each["boxes"].detach().float().cpu(),
                "labels": each["labels"].cpu(),
                "scores": each["scores"].detach().float().cpu(),
                "masks": (each["masks"].detach().flatten(0, 1) > MASK_THRESHOLD).cpu(),
            }
            for each in outputs
        ]
        there = [
            {
                "boxes": each["boxes"].float().cpu(),
                "labels": each["labels"].cpu(),
                "masks": each["masks"].bool().cpu(),
            }
            for each in targets
        ]
        self._metric.update(found, there)

    def compute(self) -> dict[str, float]:
        """Return the figures, in [0, 1]; 0 where there is no object to be found."""
        values = self._metric.compute()
        return {name: max(0.0, float(values[key])) for name, key in _NAMES.items()}


def detection_error(
    expected: Sequence[Mapping[str, Tensor]], found: Sequence[Mapping[str, Tensor]]
) -> float:
    """Return how far the objects found by two forms of a detector are apart.

    The objects that count are those whose score is at least half of their image's best: those
    below, one form may keep where the other drops them, though their scores differ by no more than
    rounding. Each is held against the nearest object of its class that the other form has found:
    by its box, relative to the largest coordinate of all, its score, and its mask's mean
    difference.

    Args:
        expected: of one form; per image as :meth:`MaskPrecision.update` takes them.
        found: of the other, for the same images.

    Returns:
        The largest of all differences; infinite where the other form has found no such object, NaN
        where one is not a number.
    """
    errors = [
        _farthest(one, other)
        for pair in zip(expected, found, strict=True)
        for one, other in (pair, pair[::-1])
    ]
    return largest_error(errors)


def _farthest(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Return the distance of the sure object of one answer that is farthest from all of another."""
    scores = one["scores"].double()
    sure = scores >= scores.max() / 2 if len(scores) else scores
    differences: list[float] = []
    for i in sure.nonzero().flatten():
        alike = (other["labels"] == one["labels"][i]).nonzero().flatten()
        if len(alike) == 0:
            return float("inf")
        boxes = (other["boxes"][alike].double() - one["boxes"][i].double()).abs().amax(dim=1)
        nearest = alike[boxes.argmin()]
        differences += [
            float(boxes.min() / one["boxes"].abs().max().clamp_min(1.0)),
            float((other["scores"][nearest].double() - scores[i]).abs()),
            float((other["masks"][nearest].double() - one["masks"][i].double()).abs().mean()),
        ]
    return largest_error(differences)
