from __future__ import annotations

import json

import pytest
import torch
from tiny_data import POLYGON, write_coco

from pas_trainer import DataConfig, DataError
from pas_trainer.data import load_instances, open_instances
from pas_trainer.data.instance_batches import decode_item


@pytest.fixture
def folder(tmp_path):
    return write_coco(tmp_path)


def config(folder, **changes) -> DataConfig:
    values = {"name": "coco", "root": str(folder), "image_size": 30, "validation": 0.25}
    return DataConfig(**{**values, **changes})


def change(folder, name="train2017", **parts):
    """Overwrite parts of a file of annotations: lists, or functions of the one there."""
    file = folder / "annotations" / f"instances_{name}.json"
    content = json.loads(file.read_text())
    for part, new in parts.items():
        content[part] = new(content[part]) if callable(new) else new
    file.write_text(json.dumps(content))


def test_published_splits_and_categories(folder):
    sources = open_instances(config(folder))
    assert [len(s) for s in (sources.train, sources.validation, sources.test)] == [6, 2, 3]
    assert {i.path.parent.name for i in (*sources.train, *sources.validation)} == {"train2017"}
    assert {i.path.parent.name for i in sources.test} == {"val2017"}
    assert sources.classes == ("car", "dog")  # by number: 3, 18
    assert [image.num_objects for image in sources.test] == [0, 2, 2]


def test_polygons_and_run_lengths_are_masks(folder):
    empty, image, _ = open_instances(config(folder)).test
    pixels, target = decode_item(image, 30)
    assert torch.equal(pixels, torch.full((3, 20, 30), 10, dtype=torch.uint8))
    polygon, runs = torch.zeros(2, 20, 30, dtype=torch.uint8)
    polygon[3:9, 2:12] = 1
    runs[5:15, 20:22] = 1
    assert torch.equal(target["masks"], torch.stack([polygon, runs]))
    assert target["boxes"].tolist() == [[2, 3, 12, 9], [20, 5, 22, 15]]
    assert target["labels"].tolist() == [2, 1]
    assert decode_item(empty, 30)[1]["masks"].shape == (0, 20, 30)


def test_compressed_run_lengths_are_read(folder):
    from pycocotools import mask

    encoded = mask.merge(mask.frPyObjects(POLYGON, 20, 30))
    encoded = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    change(folder, "val2017", annotations=lambda all_: [{**all_[0], "segmentation": encoded}])
    image = open_instances(config(folder)).test[1]
    assert decode_item(image, 30)[1]["boxes"].tolist() == [[2, 3, 12, 9]]


def test_crowds_and_boxes_without_area_are_left_out(folder, capfd):
    def spoiled(annotations):
        first, second, *others = annotations
        return [{**first, "iscrowd": 1}, {**second, "bbox": [20, 5, 0, 10]}, *others]

    change(folder, "val2017", annotations=spoiled)
    assert [image.num_objects for image in open_instances(config(folder)).test] == [0, 0, 2]
    assert capfd.readouterr().out == ""


def test_batches_are_the_same_from_memory_and_from_disk(folder):
    memory, disk = (
        list(load_instances(config(folder, memory_gib=gib, workers=1)).train.train_batches(3, 1))
        for gib in (1.0, 0.0)
    )
    for (images, targets), (again, targets_again) in zip(memory, disk, strict=True):
        assert all(map(torch.equal, images, again))
        for target, other in zip(targets, targets_again, strict=True):
            assert all(torch.equal(target[name], other[name]) for name in target)


def test_the_fingerprint_follows_the_annotations(folder):
    before = open_instances(config(folder)).fingerprint()
    assert open_instances(config(folder)).fingerprint() == before
    change(folder, annotations=lambda all_: all_[1:])
    assert open_instances(config(folder)).fingerprint() != before


def first(**values):
    """Overwrite values of the first entry."""
    return lambda all_: [{**all_[0], **values}, *all_[1:]]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"annotations": first(image_id=999)}, "annotation 1 of .* is of image 999"),
        ({"annotations": first(category_id=5)}, "annotation 1 of .* is of category 5"),
        ({"annotations": first(segmentation=[])}, "annotation 1 of .* has no segmentation"),
        (
            {"annotations": first(segmentation={"size": [30, 20], "counts": [600]})},
            "annotation 1 of .* has a mask of another size than its image 1.png",
        ),
        (
            {"annotations": lambda all_: [{**each, "id": 7} for each in all_]},
            r"\d+ annotations have the id 7 in the file .*instances_train2017\.json; number them",
        ),
        ({"images": lambda all_: [*all_, all_[0]]}, "2 images have the id"),
        ({"categories": lambda all_: [*all_, all_[0]]}, "2 categories have the id"),
        ({"annotations": first(bbox=None)}, "is not a file of COCO instance annotations"),
        ({"images": first(file_name="../val2017/0.png")}, "../val2017/0.png of .* is not in"),
        ({"images": first(width="wide")}, "is not a file of COCO instance annotations"),
        ({"images": []}, "is of image 7|lists no images"),
        ({"categories": first(name="cat")}, r"differ in categories.*\['cat', 'dog'\]"),
        ({"annotations": []}, "none of the 6 train images .* has an annotated object"),
    ],
)
def test_annotations_that_cannot_be_are_named(folder, parts, message):
    change(folder, **parts)
    with pytest.raises(DataError, match=message) as caught:
        open_instances(config(folder))
    assert "\n" not in str(caught.value)


def test_files_that_are_missing_or_broken_are_named(folder):
    (folder / "train2017" / "3.png").unlink()
    with pytest.raises(DataError, match=r"3\.png of .* is not in .*train2017"):
        open_instances(config(folder))
    (folder / "annotations" / "instances_train2014.json").write_text("{}")
    with pytest.raises(DataError, match=r"2 files instances_train\*\.json; exactly one"):
        open_instances(config(folder))
    (folder / "annotations" / "instances_train2014.json").unlink()
    (folder / "annotations" / "instances_train2017.json").write_text("{")
    with pytest.raises(DataError, match="is not a file of COCO"):
        open_instances(config(folder))
    (folder / "train2017").rename(folder / "train")
    with pytest.raises(DataError, match="train2017 does not exist"):
        open_instances(config(folder))


@pytest.mark.parametrize("outline", [[[1.0, 2.0]], [["a"] * 6], {"size": [20, 30]}, "abc", [[]]])
def test_an_outline_that_cannot_be_read_is_named(folder, outline):
    change(folder, "val2017", annotations=first(segmentation=outline))
    with pytest.raises(DataError, match=r"annotation 1 of .*val2017") as caught:
        decode_item(open_instances(config(folder)).test[1], 30)
    assert "\n" not in str(caught.value)


def test_an_image_of_another_size_than_annotated_is_named(folder):
    change(folder, "val2017", images=lambda all_: [{**i, "width": 31} for i in all_])
    change(folder, "val2017", annotations=lambda all_: [all_[0]])
    with pytest.raises(DataError, match=r"0\.png is of 30x20 pixels, its annotations of 31x20"):
        decode_item(open_instances(config(folder)).test[0], 30)
