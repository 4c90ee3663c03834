from __future__ import annotations

import numpy as np
import pytest
import torch

from pas_trainer.previews import instance_picture, translation_picture


def count(picture, low, high) -> int:
    """Pixels whose colours are all within bounds."""
    return int(((picture >= low) & (picture <= high)).all(axis=2).sum())


def scene(size, mask):
    """A grey image with one object, as annotated and as found."""
    image = torch.full((3, *size), 128, dtype=torch.uint8)
    masks = torch.zeros(1, *size, dtype=torch.uint8)
    top, left, bottom, right = mask
    masks[0, top:bottom, left:right] = 1
    target = {
        "boxes": torch.tensor([[left, top, right, bottom]]).float(),
        "labels": torch.tensor([1]),
        "masks": masks,
    }
    return image, target, {**target, "scores": torch.tensor([0.8]), "masks": masks[:, None] * 0.9}


def test_objects_are_coloured_on_both_sides():
    image, target, output = scene((40, 64), (10, 16, 30, 48))
    picture = instance_picture([image], [target], [output], ["cat"])
    assert picture.dtype == np.uint8
    assert picture.shape == (20 + 200 + 8, 8 + 2 * (320 + 8), 3)
    left, right = picture[20:220, 8:328], picture[20:220, 336:656]
    for side in (left, right):
        # (128, 128, 128) with 0.55 of the first colour, (31, 119, 180).
        coloured = count(side, (72, 121, 154), (78, 126, 159)) / side[..., 0].size
        assert 0.15 < coloured < 0.25  # a quarter, less the box's lines and the name
        assert count(side, (128,) * 3, (128,) * 3) / side[..., 0].size == pytest.approx(
            0.75, abs=0.03
        )
    assert count(picture[20:], (31, 119, 180), (31, 119, 180)) > 1000  # lines, and behind names
    assert not np.array_equal(left, right)  # the score


def test_detections_below_the_score_are_left_out():
    image, target, output = scene((40, 64), (10, 16, 30, 48))
    unsure = output | {"scores": torch.tensor([0.4])}
    picture = instance_picture([image], [target], [unsure], ["cat"])
    assert (picture[20:220, 336:656] == 128).all()
    assert not (picture[20:220, 8:328] == 128).all()


def test_images_of_different_sizes_share_a_picture():
    scenes = [
        scene((40, 64), (0, 0, 9, 9)),
        scene((64, 20), (0, 0, 9, 9)),
        scene((8, 8), (0, 0, 1, 1)),
    ]
    images, targets, outputs = zip(*scenes, strict=True)
    picture = instance_picture(images, targets, outputs, ["cat"])
    assert picture.shape == (20 + 200 + 320 + 320 + 3 * 8, 8 + 2 * 328, 3)
    assert (picture[20 + 208 : 20 + 528, 8 + 101 : 328] == 255).all()  # beside the narrow one


def test_images_without_objects_are_drawn_as_they_are():
    empty = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "scores": torch.zeros(0),
    }
    target, output = ({**empty, "masks": torch.zeros(shape)} for shape in ((0, 8, 8), (0, 1, 8, 8)))
    picture = instance_picture(
        [torch.full((3, 8, 8), 7, dtype=torch.uint8)], [target], [output], []
    )
    assert (picture[20:340, 8:328] == 7).all()


def test_translations_stand_beside_each_other():
    red, green, blue = torch.eye(3)[:, None, :, None, None].expand(3, 2, 3, 16, 16).clone()
    picture = translation_picture((red * 255).to(torch.uint8), green * 1.5, blue)
    assert picture.shape == (20 + 2 * 328, 8 + 3 * 328, 3)
    for i, colour in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255))):
        left = 8 + i * 328
        for top in (20, 348):
            assert (picture[top : top + 320, left : left + 320] == colour).all()
    assert count(picture[:20], (0, 0, 0), (100, 100, 100)) > 20  # titles


def test_large_images_are_made_smaller():
    images = torch.rand(2, 3, 700, 700)
    assert translation_picture(images, images, images).shape == (20 + 2 * 328, 992, 3)


def test_no_images_are_told():
    with pytest.raises(ValueError, match="no images to draw"):
        translation_picture(*torch.zeros(3, 0, 3, 8, 8))
