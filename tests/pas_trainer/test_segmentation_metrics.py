from __future__ import annotations

import math

import pytest
import torch

from pas_trainer.segmentation_metrics import MaskPrecision, detection_error

SIZE = (40, 60)


def target(*objects: tuple[int, tuple[int, int, int, int]]) -> dict:
    """Objects that fill their boxes: (label, (left, top, right, bottom))."""
    masks = torch.zeros(len(objects), *SIZE, dtype=torch.uint8)
    for mask, (_, (left, top, right, bottom)) in zip(masks, objects, strict=True):
        mask[top:bottom, left:right] = 1
    boxes = torch.tensor([box for _, box in objects], dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor([label for label, _ in objects], dtype=torch.int64)
    return {"boxes": boxes, "labels": labels, "masks": masks}


def output(*objects: tuple[int, tuple[int, int, int, int]], scores=None, sure=1.0) -> dict:
    found = target(*objects)
    scores = torch.tensor([0.9] * len(objects) if scores is None else scores)
    return {**found, "scores": scores, "masks": found["masks"][:, None].float() * sure}


def precision(outputs, targets) -> dict[str, float]:
    metric = MaskPrecision()
    metric.update(outputs, targets)
    return metric.compute()


ONE, OTHER = (5, 5, 15, 15), (30, 10, 50, 30)


def every(value: float) -> dict[str, float]:
    names = ("mask_map", "box_map", "mask_map_50", "box_map_50")
    return dict.fromkeys(names, pytest.approx(value, abs=1e-6))


def test_what_is_found_as_it_is_gives_one():
    outputs = [output((1, ONE), (2, OTHER)), output()]
    assert precision(outputs, [target((1, ONE), (2, OTHER)), target()]) == every(1.0)


def test_nothing_found_gives_zero():
    assert precision([output()], [target((1, ONE))]) == every(0.0)


def test_nothing_to_find_gives_zero():
    assert precision([output()], [target()]) == every(0.0)
    assert precision([output((1, ONE))], [target()]) == every(0.0)


def test_half_of_the_objects_found():
    # COCO reads the precision, 1, at the recalls 0, 0.01, ..., of which 51 of 101 are reached.
    assert precision([output((1, ONE))], [target((1, ONE), (1, OTHER))]) == every(51 / 101)


def test_classes_count_alike():
    found = [output((1, ONE)), output((1, ONE))]
    assert precision(found, [target((1, ONE)), target((1, ONE), (2, OTHER))]) == every(0.5)
    assert precision([output((2, ONE))], [target((1, ONE))]) == every(0.0)


def test_a_surer_mistake_on_another_image_halves_the_precision():
    outputs = [output((1, ONE), scores=[0.6]), output((1, OTHER), scores=[0.8])]
    assert precision(outputs, [target((1, ONE)), target()]) == every(0.5)


def test_a_shifted_box_counts_as_far_as_it_overlaps():
    # 9 of 11 columns overlap: 0.818, beyond 7 of the 10 thresholds.
    found = precision([output((1, (6, 5, 16, 15)))], [target((1, ONE))])
    assert found == {**every(0.7), "mask_map_50": 1.0, "box_map_50": 1.0}


def test_masks_and_boxes_are_judged_apart():
    unsure = precision([output((1, ONE), sure=0.4)], [target((1, ONE))])
    assert unsure == {"mask_map": 0.0, "box_map": 1.0, "mask_map_50": 0.0, "box_map_50": 1.0}
    narrow = output((1, (5, 5, 12, 15)))  # 0.7 of the mask, in a box that is right
    found = precision([{**narrow, "boxes": torch.tensor([ONE]).float()}], [target((1, ONE))])
    assert found["mask_map"] == pytest.approx(0.5)
    assert found["box_map"] == 1.0


def test_batches_and_their_order_do_not_matter():
    generator = torch.Generator().manual_seed(0)
    targets = [target((1 + i % 2, ONE), (1, OTHER)) for i in range(6)]
    outputs = []
    for i in range(6):
        by = int(torch.randint(0, 5, (), generator=generator))
        moved = (ONE[0] + by, ONE[1], ONE[2] + by, ONE[3])
        outputs.append(output((1 + i % 2, moved), scores=[0.3 + 0.1 * i]))
    metric = MaskPrecision()
    for i in (4, 2, 0):
        metric.update(outputs[i : i + 2], targets[i : i + 2])
    apart, whole = metric.compute(), precision(outputs, targets)
    assert apart == pytest.approx(whole)
    assert 0 < whole["mask_map"] < whole["mask_map_50"] < 1


def detections(*found: tuple[float, int, float], size: int = 20) -> dict[str, torch.Tensor]:
    """Objects of one image, each by its left edge, label and score."""
    boxes = torch.tensor([[x, 2.0, x + 4, 8.0] for x, _, _ in found]).reshape(-1, 4)
    masks = torch.zeros(len(found), 1, size, size)
    for mask, (x, _, _) in zip(masks, found, strict=True):
        mask[0, 2:8, int(x) : int(x) + 4] = 1.0
    return {
        "boxes": boxes,
        "labels": torch.tensor([label for _, label, _ in found], dtype=torch.long),
        "scores": torch.tensor([score for *_, score in found]),
        "masks": masks,
    }


TWO = ((1.0, 1, 0.9), (11.0, 2, 0.8))


@pytest.mark.parametrize(
    ("found", "error"),
    [
        (TWO, 0.0),
        (TWO[::-1], 0.0),  # the order does not count
        ((*TWO, (5.0, 1, 0.3)), 0.0),  # nor does an object that is not sure
        (((1.0, 1, 0.9), (11.0, 2, 0.7)), 0.1),
        (((1.0, 1, 0.9), (11.5, 2, 0.8)), 0.5 / 15),  # of 15 and 15.5; the mask is the same
        (TWO[:1], math.inf),
        (((1.0, 1, 0.9), (11.0, 1, 0.8)), math.inf),  # of another class
        ((), math.inf),
        ((*TWO, (5.0, 3, 0.6)), math.inf),
    ],
)
def test_two_forms_of_a_detector_are_compared_object_by_object(found, error):
    expected, other = [detections(*TWO)], [detections(*found)]
    assert detection_error(expected, other) == pytest.approx(error, abs=1e-6)
    assert detection_error(other, expected) == pytest.approx(error, abs=1e-6)


@pytest.mark.parametrize("spoiled", ["boxes", "masks"])
def test_what_is_no_number_is_the_worst(spoiled):
    broken = detections(*TWO)
    broken[spoiled] = broken[spoiled] * math.nan
    for pair in (([detections(*TWO)], [broken]), ([broken], [detections(*TWO)])):
        assert math.isnan(detection_error(*pair))


def test_masks_and_every_image_count():
    moved = detections(*TWO)
    moved["masks"] = moved["masks"].clone()
    moved["masks"][0, 0, :10] = 0.5  # of 200 pixels 24 were 1
    expected = [detections(), detections(*TWO)]
    assert detection_error(expected, [detections(), moved]) == pytest.approx(100 / 400)
    assert detection_error([detections()], [detections()]) == 0.0


def test_an_overlap_of_exactly_a_threshold_reaches_it():
    # 3 of 5 pixels, an overlap of 0.6: right at 0.5, 0.55 and 0.6, as COCOeval counts it.
    found = precision([output((1, (0, 0, 3, 1)))], [target((1, (0, 0, 5, 1)))])
    assert found["mask_map"] == pytest.approx(0.3)
    assert found["box_map"] == pytest.approx(0.3)
