"""Where images come from: an index of what there is, checked before anything is decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pas_trainer.data.config import DataConfig, check_task
from pas_trainer.data.places import address_of, place_of
from pas_trainer.errors import DataError

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
)


@dataclass(frozen=True, slots=True)
class Source:
    """One split's images, not yet decoded, and their labels.

    Attributes:
        images: files, or an array uint8 (N, H, W, C).
        labels: class index of each image.
    """

    images: Sequence[Path] | NDArray[np.uint8]
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Sequence[int]) -> Source:
        """Return the images at ``indices``, in that order."""
        if isinstance(self.images, np.ndarray):
            images: Any = self.images[list(indices)]
        else:
            images = [self.images[i] for i in indices]
        return Source(images, [self.labels[i] for i in indices])


@dataclass(frozen=True, slots=True)
class Sources:
    """The splits of a data set and what its classes are called.

    Attributes:
        train, validation, test: the splits.
        classes: their names, in the order of the labels.
        channels, image_size: of an image.
        version: hash of the files' content where they came from a store; else empty.
    """

    train: Source
    validation: Source
    test: Source
    classes: tuple[str, ...]
    channels: int
    image_size: int
    version: str = ""

    def fingerprint(self) -> str:
        """Hash of what decides the splits' content: names, sizes and version, or the arrays."""
        digest = hashlib.sha256(repr((self.classes, self.image_size)).encode())
        digest.update(self.version.encode())
        for split in (self.train, self.validation, self.test):
            digest.update(repr(list(split.labels)).encode())
            if isinstance(split.images, np.ndarray):
                digest.update(split.images.tobytes())
            else:
                for path in split.images:
                    digest.update(f"{path.parent.name}/{path.name}:{path.stat().st_size};".encode())
        return digest.hexdigest()[:16]


def open_sources(config: DataConfig) -> Sources:
    """Index a data set and split it; nothing is decoded.

    Raises:
        DataError: a folder is missing or has no classes, a class has no images or too few.
    """
    check_task(config, "classification")
    train, test, classes, channels, size = _READERS[config.name](config)
    train = _share_of_each_class(train, config.train_images, config.split_seed)
    test = _share_of_each_class(test, config.test_images, config.split_seed)
    held_out = max(1, round(len(train) * config.validation))
    by_class = _shuffled_by_class(train.labels, config.split_seed)
    if min(len(indices) for indices in by_class) < 2:
        raise DataError("a class has fewer than 2 training images, too few to hold one out")
    order = _interleaved(by_class, first=held_out >= len(by_class), last=1)
    validation = train.subset(sorted(order[:held_out]))
    train = train.subset(sorted(order[held_out:]))
    if not len(train):
        raise DataError(f"validation {config.validation} leaves no image to train on")
    version = place_of(config.root).version if config.root else ""
    size = config.image_size or size
    return Sources(train, validation, test, classes, channels, size, version)


def decode(path: Path | BinaryIO, channels: int = 3) -> Image.Image:
    """Read one image file, or what was read of one, as RGB (or grey, for one channel).

    Raises:
        DataError: naming the file, if it cannot be read or decoded.
    """
    with opened(path) as image:
        return _of_eight_bits(image).convert("RGB" if channels == 3 else "L")


def _of_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16 bits down; conversion would clip them."""
    if image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.mode in {"I", "F"}:
        raise ValueError(f"mode {image.mode}: how bright white is in it is not known; use 8 bits")
    return image


@cache
def file_formats() -> tuple[str, ...]:
    """Return the formats that a file may have, whatever its name; Pillow knows riskier ones."""
    known = Image.registered_extensions()
    return tuple(sorted({known[suffix] for suffix in IMAGE_SUFFIXES}))


@contextmanager
def opened(path: Path | BinaryIO) -> Iterator[Image.Image]:
    """Open one image file, of which only the header is read until its pixels are asked for.

    Raises:
        DataError: naming the file, if it cannot be read or decoded.
    """
    try:
        with Image.open(path, formats=file_formats()) as image:
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        name = address_of(path) if isinstance(path, Path) else "of bytes"
        said = str(error) if str(error).startswith("mode ") else type(error).__name__
        raise DataError(
            f"cannot decode image {name} ({said}); "
            "replace or remove it and run the same command again"
        ) from error


_Read = tuple[Source, Source, tuple[str, ...], int, int]


def _read_digits(_config: DataConfig) -> _Read:
    """Read ``load_digits`` of scikit-learn, without importing that, which takes seconds."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("data.name: digits are part of scikit-learn; pip install scikit-learn")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(file, delimiter=",")  # 64 pixels from 0 to 16, and the class
    images = (table[:, :-1] / 16 * 255).round().astype(np.uint8).reshape(-1, 8, 8, 1)
    every = Source(images, [int(label) for label in table[:, -1]])
    order = _interleaved(_shuffled_by_class(every.labels, seed=0))
    num_test = len(every) // 5
    test, train = every.subset(sorted(order[:num_test])), every.subset(sorted(order[num_test:]))
    return train, test, tuple(str(digit) for digit in range(10)), 1, 8


def _read_cifar10(config: DataConfig) -> _Read:
    from torchvision.datasets import CIFAR10

    assert config.root is not None
    try:
        train, test = (CIFAR10(config.root, train=t, download=False) for t in (True, False))
    except RuntimeError as error:
        raise DataError(
            f"no CIFAR-10 files in {config.root}; unpack cifar-10-python.tar.gz there"
        ) from error
    return (
        Source(train.data, train.targets),
        Source(test.data, test.targets),
        tuple(train.classes),
        3,
        32,
    )


def _read_imagefolder(config: DataConfig) -> _Read:
    assert config.root is not None
    root = place_of(config.root).folder
    if not root.is_dir():
        raise DataError(f"data folder {root} does not exist; set data.root to where the images are")
    test_folder = next((root / n for n in ("test", "val") if (root / n).is_dir()), root / "test")
    train, classes = _read_class_folders(root / "train")
    test, test_classes = _read_class_folders(test_folder)
    if classes != test_classes:
        odd = sorted(set(classes) ^ set(test_classes))
        folders = f"{address_of(root / 'train')} and {address_of(test_folder)}"
        raise DataError(f"{folders} differ in class folders: {odd[:5]}")
    return train, test, classes, 3, config.image_size or 0


def _read_class_folders(folder: Path) -> tuple[Source, tuple[str, ...]]:
    shown = address_of(folder)
    if not folder.is_dir():
        raise DataError(f"data folder {shown} does not exist; it must hold one folder per class")
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and is_visible(p))
    if len(classes) < 2:
        raise DataError(f"data folder {shown} has {len(classes)} class folders; at least 2 needed")
    images: list[Path] = []
    labels: list[int] = []
    for index, name in enumerate(classes):
        files = images_below(folder / name)
        if not files:
            raise DataError(f"class folder {shown}/{name} has no images; fill or remove it")
        images.extend(files)
        labels.extend([index] * len(files))
    return Source(images, labels), tuple(classes)


def images_below(folder: Path) -> list[Path]:
    """Return the images in a folder and in those below it, sorted; nothing that is hidden."""
    return sorted(
        path
        for path in folder.rglob("*")
        if is_image(path) and all(map(is_visible, path.relative_to(folder).parents))
    )


def is_image(path: Path) -> bool:
    """Whether a path is that of an image, by its name."""
    return path.suffix.lower() in IMAGE_SUFFIXES and is_visible(path) and path.is_file()


def is_visible(path: Path) -> bool:
    """Whether it is no such thing as ``.ipynb_checkpoints`` or the ``._x.png`` of some systems."""
    return not path.name.startswith(".")


_READERS = {"digits": _read_digits, "cifar10": _read_cifar10, "imagefolder": _read_imagefolder}


def _shuffled_by_class(labels: Sequence[int], seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.as_tensor(labels)
    by_class = []
    for label in sorted(set(labels)):
        indices = (tensor == label).nonzero().flatten()
        by_class.append(indices[torch.randperm(len(indices), generator=generator)].tolist())
    return by_class


def _interleaved(by_class: list[list[int]], first: int = 0, last: int = 0) -> list[int]:
    """Order in which every beginning holds each class in its share of the whole.

    Whatever that is, so many images of every class come before all others, and after them.
    """

    def place(rank: int, count: int) -> float:
        if rank < first or rank >= count - last:
            return 0.0 if rank < first else 1.0
        return (rank + 0.5) / count

    keyed = [
        (place(rank, len(indices)), label, index)
        for label, indices in enumerate(by_class)
        for rank, index in enumerate(indices)
    ]
    return [index for _, _, index in sorted(keyed)]


def _share_of_each_class(source: Source, limit: int | None, seed: int) -> Source:
    if limit is None or limit >= len(source):
        return source
    by_class = _shuffled_by_class(source.labels, seed)
    order = _interleaved(by_class, first=min(2, limit // len(by_class)))
    return source.subset(sorted(order[:limit]))
