"""COCO (Lin et al., 2014), and other data sets in its layout, read with pycocotools.

``root/annotations/instances_train2017.json`` describes the images in ``root/train2017``, and
``instances_val2017.json`` those in ``root/val2017``, which are the test split; any other ending
will do. Crowds (``iscrowd``) and objects whose box has no area are left out, as torchvision's
reference training does; in evaluation as well, where COCO's own overlooks what is found in crowds.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pas_trainer.data.places import address_of
from pas_trainer.data.splitting import named
from pas_trainer.errors import DataError


@dataclass(frozen=True, slots=True)
class CocoObject:
    """One object: its number in the file, label from 1, and outline (polygons or run lengths)."""

    number: int
    label: int
    segmentation: Any


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One image and the objects on it.

    Attributes:
        path: the image.
        width, height: in pixels, as the annotations say.
        annotations: the objects.
        file: where they are from.
    """

    path: Path
    width: int
    height: int
    annotations: tuple[CocoObject, ...]
    file: Path

    @property
    def num_objects(self) -> int:
        """Objects on the image."""
        return len(self.annotations)

    def objects(self) -> tuple[Tensor, Tensor]:
        """Return what is on the image: labels int64 (n,) and masks uint8 (n, H, W)."""
        masks = [self._mask(which) for which in self.annotations]
        labels = torch.tensor([which.label for which in self.annotations], dtype=torch.int64)
        empty = torch.zeros(0, self.height, self.width, dtype=torch.uint8)
        return labels, torch.stack(masks) if masks else empty

    def _mask(self, which: CocoObject) -> Tensor:
        from pycocotools import mask as outlines

        found, size = which.segmentation, (self.height, self.width)
        try:
            if isinstance(found, list):
                found = outlines.merge(outlines.frPyObjects(found, *size))
            elif isinstance(found["counts"], list):
                found = outlines.frPyObjects(found, *size)
            return torch.from_numpy(outlines.decode(found))
        except Exception as error:  # pycocotools raises that itself
            raise DataError(
                f"annotation {which.number} of {address_of(self.file)} has no outline that "
                f"pycocotools can read ({type(error).__name__}); mend or remove it"
            ) from None

    def identity(self) -> str:
        """Return what a fingerprint keeps; of the annotations it keeps their whole file."""
        return named(self.path)


@dataclass(frozen=True, slots=True)
class CocoSplit:
    """One file of annotations: its images in the order of their names, classes and content hash."""

    images: list[CocoImage]
    classes: tuple[str, ...]
    version: str


def read_coco(root: Path) -> tuple[CocoSplit, CocoSplit]:
    """Index the training and the validation images; none is opened.

    Raises:
        DataError: a file or folder is missing, or an annotation says what cannot be.
    """
    train, val = (_read_split(root, name) for name in ("train", "val"))
    if train.classes != val.classes:
        odd = sorted(set(train.classes) ^ set(val.classes))
        raise DataError(
            f"the training and validation annotations in {address_of(root / 'annotations')} "
            f"differ in categories or their order: {odd[:5]}"
        )
    return train, val


def _read_split(root: Path, name: str) -> CocoSplit:
    files = sorted((root / "annotations").glob(f"instances_{name}*.json"))
    if len(files) != 1:
        raise DataError(
            f"data folder {address_of(root / 'annotations')} holds {len(files)} files "
            f"instances_{name}*.json; exactly one is needed"
        )
    file = files[0]
    folder = root / file.stem.removeprefix("instances_")
    if not folder.is_dir():
        raise DataError(f"data folder {address_of(folder)} does not exist; see data.root")
    content = _parsed(file)
    labels = {number: label for label, number in enumerate(sorted(content.cats), start=1)}
    files_there = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    found = _objects_by_image(content, labels, file)
    images = []
    for number, image in content.imgs.items():
        if image["file_name"] not in files_there:
            raise DataError(
                f"image {image['file_name']} of {address_of(file)} is not in {address_of(folder)}; "
                "add it or remove it from the annotations"
            )
        path, size = folder / image["file_name"], (image["width"], image["height"])
        images.append(CocoImage(path, *size, tuple(found.get(number, ())), file))
    images.sort(key=lambda image: image.path)
    with file.open("rb") as stream:
        version = hashlib.file_digest(stream, "sha256").hexdigest()
    return CocoSplit(images, tuple(content.cats[number]["name"] for number in labels), version)


def _parsed(file: Path) -> Any:
    """Return pycocotools' index of a file, whose entries have what is read of them."""
    from pycocotools.coco import COCO

    try:
        with redirect_stdout(io.StringIO()):
            content = COCO(file)
            _check_ids_differ(content)
        for image in content.imgs.values():
            sizes = (image["width"], image["height"])
            if not (all(isinstance(s, int) and s > 0 for s in sizes) and image["file_name"]):
                raise ValueError
        for category in content.cats.values():
            if not category["name"]:
                raise ValueError
        for annotation in content.anns.values():
            _has_area(annotation)
    except _RepeatedIdError as error:
        raise DataError(f"{error} of {address_of(file)}; number them anew") from None
    except (OSError, ValueError, AssertionError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{address_of(file)} is not a file of COCO instance annotations "
            f"({type(error).__name__}); replace it"
        ) from None
    if not content.imgs or not content.cats:
        raise DataError(f"{address_of(file)} lists no images or no categories; replace it")
    return content


class _RepeatedIdError(ValueError):
    """Says which."""


def _check_ids_differ(content: Any) -> None:
    """Check that nothing was lost in pycocotools' index, which keeps the last of each id."""
    for kind, kept in (
        ("images", content.imgs),
        ("categories", content.cats),
        ("annotations", content.anns),
    ):
        counts = Counter(entry["id"] for entry in content.dataset.get(kind, ()))
        if len(kept) < counts.total():
            ((repeated, count),) = counts.most_common(1)
            raise _RepeatedIdError(f"{count} {kind} have the id {repeated!r} in the file")


def _has_area(annotation: dict[str, Any]) -> bool:
    """Whether the box (x, y, width, height) of an annotation, if it has one, has an area."""
    return all(side > 0 for side in annotation.get("bbox", ())[2:])


def _objects_by_image(
    content: Any, labels: dict[int, int], file: Path
) -> dict[int, list[CocoObject]]:
    """Return the objects of each image's number, crowds and those without area left out."""
    by_image: dict[int, list[CocoObject]] = {}
    for number, annotation in content.anns.items():
        image = content.imgs.get(annotation["image_id"])
        outline = annotation.get("segmentation")
        if image is None:
            wrong = f"is of image {annotation['image_id']}, which is not listed there"
        elif annotation.get("category_id") not in labels:
            wrong = f"is of category {annotation.get('category_id')}, which is not listed there"
        elif annotation.get("iscrowd") or not _has_area(annotation):
            continue
        elif not outline:
            wrong = "has no segmentation"
        elif isinstance(outline, dict) and outline.get("size") != [image["height"], image["width"]]:
            wrong = f"has a mask of another size than its image {image['file_name']}"
        else:
            found = CocoObject(number, labels[annotation["category_id"]], outline)
            by_image.setdefault(annotation["image_id"], []).append(found)
            continue
        raise DataError(f"annotation {number} of {address_of(file)} {wrong}; mend or remove it")
    return by_image
