"""Images of two domains, A and B: an index of what there is, split before anything is decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pas_trainer.data.config import DataConfig, check_task
from pas_trainer.data.places import address_of, place_of
from pas_trainer.data.sources import opened
from pas_trainer.data.splitting import drawn, hold_out, images_in, named
from pas_trainer.errors import DataError

Files = tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class PairFiles:
    """The files of one split.

    Attributes:
        inputs: images of the domain to translate from; of paired data, files that hold both.
        targets: images of the other domain; of paired data the same files.
    """

    inputs: Files
    targets: Files

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, slots=True)
class PairSources:
    """The splits of a data set of two domains.

    Attributes:
        train, validation, test: their files.
        paired: whether each file holds an image of A (its left half) and its translation to B.
        direction: ``a_to_b`` or ``b_to_a``.
        image_size: height and width in pixels the images are brought to.
        channels: of an image.
        classes: none.
        version: empty.
    """

    train: PairFiles
    validation: PairFiles
    test: PairFiles
    paired: bool
    direction: str
    image_size: int
    channels: int = 3
    classes: tuple[str, ...] = ()
    version: str = ""

    def fingerprint(self) -> str:
        """Hash of what decides the splits' content: names and sizes of files, and the direction."""
        digest = hashlib.sha256(repr((self.paired, self.direction, self.image_size)).encode())
        for split in (self.train, self.validation, self.test):
            for files in (split.inputs,) if self.paired else (split.inputs, split.targets):
                digest.update(f"{len(files)};".encode())
                for path in files:
                    digest.update(named(path).encode())
        return digest.hexdigest()[:16]


def open_pairs(config: DataConfig) -> PairSources:
    """Index a data set of two domains and split it; nothing is decoded.

    ``paired``: validation images are those of ``root/val``. Without that folder they are held out
    of ``root/train``, and likewise where ``root/val`` has to stand in for a missing ``root/test``.
    ``unpaired``: they are held out of ``root/trainA`` and ``root/trainB``.

    Raises:
        DataError: a folder is missing or empty, or an image is not two halves side by side.
    """
    check_task(config, "image_translation")
    assert config.root is not None
    assert config.image_size is not None
    root, paired = place_of(config.root).folder, config.name == "paired"
    splits = _paired(root, config) if paired else _unpaired(root, config)
    return PairSources(*splits, paired, config.direction, config.image_size)


_Splits = tuple[PairFiles, PairFiles, PairFiles]


def _paired(root: Path, config: DataConfig) -> _Splits:
    train = images_in(root / "train")
    has_val, has_test = ((root / name).is_dir() for name in ("val", "test"))
    if not has_val and not has_test:
        raise DataError(
            f"data folder {address_of(root)} has neither test nor val; put some pairs into one"
        )
    test = _limited(images_in(root / ("test" if has_test else "val")), config)
    chosen = drawn(len(train), config.train_images, config.split_seed)
    if has_val and has_test:
        splits = ([train[i] for i in sorted(chosen)], _limited(images_in(root / "val"), config))
    else:
        order, held_out = hold_out(chosen, config)
        splits = ([train[i] for i in order], [train[i] for i in held_out])
    for path in (*train, *splits[1], *test):
        _check_halves(path)
    train_files, validation_files, test_files = (tuple(files) for files in (*splits, test))
    return (
        PairFiles(train_files, train_files),
        PairFiles(validation_files, validation_files),
        PairFiles(test_files, test_files),
    )


def _check_halves(path: Path) -> None:
    with opened(path) as picture:
        width, height = picture.size
    if width <= height or width % 2:
        why = "no wider than tall" if width <= height else "of odd width"
        raise DataError(
            f"image {address_of(path)} is {why} ({width}x{height}), so it is not two halves of the "
            "same size side by side; replace or remove it"
        )


def _unpaired(root: Path, config: DataConfig) -> _Splits:
    domains = []
    for domain in ("A", "B"):
        train, test = (images_in(root / f"{name}{domain}") for name in ("train", "test"))
        chosen = drawn(len(train), config.train_images, config.split_seed)
        order, held_out = hold_out(chosen, config)
        parts = ([train[i] for i in order], [train[i] for i in held_out], _limited(test, config))
        domains.append([tuple(part) for part in parts])
    if config.direction == "b_to_a":
        domains.reverse()
    train_files, validation_files, test_files = (
        PairFiles(inputs, targets) for inputs, targets in zip(*domains, strict=True)
    )
    return train_files, validation_files, test_files


def _limited(files: Sequence[Path], config: DataConfig) -> list[Path]:
    """Return as many files to evaluate on as wanted."""
    return [files[i] for i in sorted(drawn(len(files), config.test_images, config.split_seed))]
