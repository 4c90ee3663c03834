"""Which images to train on (``data:`` in a sweep file)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pas_trainer.data.places import is_remote
from pas_trainer.errors import DataError
from pas_trainer.keys import ADDED

DATASETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "classification": ("digits", "cifar10", "imagefolder"),
        "instance_segmentation": ("penn_fudan", "coco"),
        "image_translation": ("paired", "unpaired"),
    }
)
"""Names of data sets by the task that they are for."""
DIRECTIONS = ("a_to_b", "b_to_a")
CUSTOM = "custom"
"""Name of a data set that a task of the user's own reads."""
_NAMES = (*(name for names in DATASETS.values() for name in names), CUSTOM)
_SIZED = ("imagefolder", *DATASETS["instance_segmentation"], *DATASETS["image_translation"])
_SMALLEST_TRANSLATED = 16
"""Pixels; the structural similarity of images looks through windows of 11."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """A data set of images, how they are read, and how it is split."""

    name: str
    """Classification: ``digits`` (8x8, bundled with scikit-learn), ``cifar10`` (torchvision's
    files) or ``imagefolder`` (``root/train/<class>/*`` and ``root/test/<class>/*`` or
    ``root/val/...``). Instance segmentation: ``penn_fudan`` (``root/PNGImages``,
    ``root/PedMasks``) or ``coco`` (``root/annotations/instances_{train,val}*.json`` and
    ``root/{train,val}*``). Image translation: ``paired`` (as pix2pix, two halves side by side in
    ``root/{train,val,test}``) or ``unpaired`` (as CycleGAN, ``root/{trainA,trainB,testA,testB}``).
    ``custom``: for a task of your own.
    """
    root: str | None = None
    """Folder of the data set, not needed for digits; for ``imagefolder`` also
    ``s3://bucket/prefix``."""
    image_size: int | None = None
    """Height and width in pixels the images are brought to, or the longer side for instance
    segmentation; all but ``digits`` and ``cifar10`` need it."""
    direction: str = field(default="a_to_b", metadata=ADDED)
    """Which of two domains image translation makes out of which, or ``b_to_a``; A is the left half
    of a pair."""
    validation: float = 0.1
    """Share of the training images of each class held out to compare trials by."""
    train_images: int | None = None
    """Use only so many images of the training split: the same share of each class, or random
    ones where images have no class."""
    test_images: int | None = None
    """Use only so many images of the test split (and of pairs in ``root/val``), likewise."""
    augment: bool = True
    """Random crops (and mirror images, except for digits) while training; for instance
    segmentation mirror images only."""
    memory_gib: float = 2.0
    """The decoded images of a split are held in memory up to this size; beyond, they are read again
    each epoch."""
    workers: int = 4
    """Processes that decode images, where they do not fit in memory."""
    split_seed: int = 0
    """Which images are held out; the same for all trials of a sweep."""

    def __post_init__(self) -> None:
        """Check names and ranges; whether files exist is checked by ``open_data``."""
        if self.name not in _NAMES:
            raise ValueError(f"name is {self.name!r}; known: {', '.join(_NAMES)}")
        if self.name not in {"digits", CUSTOM} and self.root is None:
            raise ValueError(f"root is missing; {self.name} needs the folder of its files")
        self._check_address()
        if self.name in _SIZED and self.image_size is None:
            raise ValueError(f"image_size is missing; {self.name} needs it")
        if self.image_size is not None and not 8 <= self.image_size <= 4096:
            raise ValueError(f"image_size is {self.image_size}; it must be in 8..4096")
        self._check_translation()
        if not 0 < self.validation < 1:
            raise ValueError(f"validation is {self.validation}; it must be in (0, 1)")
        for name in ("train_images", "test_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.memory_gib < 0:
            raise ValueError(f"memory_gib is {self.memory_gib}; it must be at least 0")
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}; it must be at least 0")

    def _check_translation(self) -> None:
        """Check what only pairs of images have."""
        if self.direction not in DIRECTIONS:
            raise ValueError(f"direction is {self.direction!r}; known: {', '.join(DIRECTIONS)}")
        if self.name not in DATASETS["image_translation"]:
            if self.direction != "a_to_b":
                raise ValueError(
                    f"direction is {self.direction!r}, but {self.name} has no two domains; "
                    "leave direction out"
                )
        elif self.image_size is not None and self.image_size < _SMALLEST_TRANSLATED:
            raise ValueError(
                f"image_size is {self.image_size}; {self.name} needs at least "
                f"{_SMALLEST_TRANSLATED}"
            )

    def _check_address(self) -> None:
        """Check a root that is no folder; what may be a secret is not repeated."""
        if self.root is None or not is_remote(self.root):
            return
        scheme, _, rest = self.root.partition("://")
        bucket = rest.split("/")[0]
        if "@" in bucket:
            raise ValueError(
                "root must not hold credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if scheme != "s3" or self.name != "imagefolder":
            raise ValueError(
                f"root is {self.root!r}; {self.name} reads "
                + ("a folder or s3://bucket/prefix" if self.name == "imagefolder" else "a folder")
            )
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}", bucket):
            raise ValueError(f"root is {self.root!r}; write s3://bucket/prefix")


def check_task(config: DataConfig, task: str) -> None:
    """Check that a data set is one for a task.

    Raises:
        DataError: it is for another one.
    """
    if config.name not in DATASETS[task]:
        known = ", ".join(DATASETS[task])
        raise DataError(f"data.name is {config.name!r}, which is not for {task}; known: {known}")
