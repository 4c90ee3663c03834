"""Which images to train on (``data:`` in a sweep file)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pas_trainer.data.places import is_remote

DATASETS = ("digits", "cifar10", "imagefolder")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """An image-classification data set, how its images are read, and how it is split."""

    name: str
    """``digits`` (8x8, bundled with scikit-learn), ``cifar10`` (torchvision's files) or
    ``imagefolder`` (``root/train/<class>/*`` and ``root/test/<class>/*`` or ``root/val/...``)."""
    root: str | None = None
    """Folder of the data set, not needed for digits; for ``imagefolder`` also
    ``s3://bucket/prefix``."""
    image_size: int | None = None
    """Height and width in pixels the images are brought to; ``imagefolder`` needs it."""
    validation: float = 0.1
    """Share of the training images of each class held out to compare trials by."""
    train_images: int | None = None
    """Use only so many images of the training split, the same share of each class."""
    test_images: int | None = None
    """Use only so many images of the test split, the same share of each class."""
    augment: bool = True
    """Random crops (and mirror images, except for digits) while training."""
    memory_gib: float = 2.0
    """Decoded images are held in memory up to this size, and read again each epoch beyond it."""
    workers: int = 4
    """Processes that decode images, where they do not fit in memory."""
    split_seed: int = 0
    """Which images are held out; the same for all trials of a sweep."""

    def __post_init__(self) -> None:
        """Check names and ranges; whether files exist is checked by ``open_data``."""
        if self.name not in DATASETS:
            raise ValueError(f"name is {self.name!r}; known: {', '.join(DATASETS)}")
        if self.name != "digits" and self.root is None:
            raise ValueError(f"root is missing; {self.name} needs the folder of its files")
        self._check_address()
        if self.name == "imagefolder" and self.image_size is None:
            raise ValueError("image_size is missing; imagefolder needs it")
        if self.image_size is not None and not 8 <= self.image_size <= 4096:
            raise ValueError(f"image_size is {self.image_size}; it must be in 8..4096")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation is {self.validation}; it must be in (0, 1)")
        for field in ("train_images", "test_images"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"{field} is {value}; it must be at least 1")
        if self.memory_gib < 0:
            raise ValueError(f"memory_gib is {self.memory_gib}; it must be at least 0")
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}; it must be at least 0")

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
