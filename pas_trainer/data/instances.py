"""Images with outlined objects: an index of what there is, split before anything is decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from pas_trainer.data.coco import read_coco
from pas_trainer.data.config import DataConfig, check_task
from pas_trainer.data.penn_fudan import read_penn_fudan
from pas_trainer.data.places import place_of
from pas_trainer.data.splitting import drawn, hold_out
from pas_trainer.errors import DataError

_PENN_FUDAN_TEST, _PENN_FUDAN_ALL = 50, 170


class AnnotatedImage(Protocol):
    """One image, not yet decoded, and what is known of the objects on it."""

    @property
    def path(self) -> Path:
        """The image."""
        ...

    @property
    def width(self) -> int:
        """Pixels in a row."""
        ...

    @property
    def height(self) -> int:
        """Pixels in a column."""
        ...

    @property
    def num_objects(self) -> int:
        """Objects on the image."""
        ...

    def objects(self) -> tuple[Tensor, Tensor]:
        """Return labels int64 (n,), from 1, and masks uint8 (n, H, W)."""
        ...

    def identity(self) -> str:
        """Return what a fingerprint keeps: names and sizes of the files."""
        ...


Annotated = tuple[AnnotatedImage, ...]


@dataclass(frozen=True, slots=True)
class InstanceSources:
    """The splits of a data set of outlined objects.

    Attributes:
        train, validation, test: the images of each; those without an object are among them.
        classes: names of labels 1, 2, ...; the background, label 0, is none of them.
        image_size: pixels that the longer side of an image is brought to.
        version: hash of the annotations' content, where images share a file of them; else empty.
        channels: of an image.
    """

    train: Annotated
    validation: Annotated
    test: Annotated
    classes: tuple[str, ...]
    image_size: int
    version: str = ""
    channels: int = 3

    def fingerprint(self) -> str:
        """Hash of what decides the splits' content: names and sizes of files, and the version."""
        digest = hashlib.sha256(repr((self.classes, self.image_size, self.version)).encode())
        for split in (self.train, self.validation, self.test):
            digest.update(f"{len(split)};".encode())
            for image in split:
                digest.update(image.identity().encode())
        return digest.hexdigest()[:16]


def open_instances(config: DataConfig) -> InstanceSources:
    """Index a data set of outlined objects and split it; no image is decoded.

    The test split of ``penn_fudan`` is the last 50 of 170 images in random order (as many as
    torchvision's tutorial holds out), or the same share of fewer; of ``coco`` the validation images
    as published. Validation images are drawn from the others. ``split_seed`` decides all draws.

    Raises:
        DataError: files are missing or do not belong together, annotations say what cannot be, or
            a split has no object.
    """
    check_task(config, "instance_segmentation")
    assert config.root is not None
    assert config.image_size is not None
    root = place_of(config.root).folder
    reader = _penn_fudan if config.name == "penn_fudan" else _coco
    train, test, classes, version = reader(root, config)
    order, held_out = hold_out(drawn(len(train), config.train_images, config.split_seed), config)
    test_order = sorted(drawn(len(test), config.test_images, config.split_seed))
    sources = InstanceSources(
        train=tuple(train[i] for i in order),
        validation=tuple(train[i] for i in held_out),
        test=tuple(test[i] for i in test_order),
        classes=classes,
        image_size=config.image_size,
        version=version,
    )
    for name in ("train", "validation", "test"):
        split: Annotated = getattr(sources, name)
        if not any(image.num_objects for image in split):
            raise DataError(
                f"none of the {len(split)} {name} images of {config.root} has an annotated object; "
                "annotate some, or take more images into the split"
            )
    return sources


_Read = tuple[Sequence[AnnotatedImage], Sequence[AnnotatedImage], tuple[str, ...], str]


def _penn_fudan(root: Path, config: DataConfig) -> _Read:
    images = read_penn_fudan(root)
    order = drawn(len(images), None, config.split_seed)
    share = round(len(images) * _PENN_FUDAN_TEST / _PENN_FUDAN_ALL)
    num_train = len(images) - max(1, min(_PENN_FUDAN_TEST, share))
    train, test = ([images[i] for i in part] for part in (order[:num_train], order[num_train:]))
    by_name = sorted(train, key=lambda image: image.path)
    return by_name, sorted(test, key=lambda image: image.path), ("pedestrian",), ""


def _coco(root: Path, _config: DataConfig) -> _Read:
    train, val = read_coco(root)
    version = hashlib.sha256((train.version + val.version).encode()).hexdigest()
    return train.images, val.images, train.classes, version
