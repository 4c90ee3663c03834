"""Square pictures in two sizes, in memory or read anew: as evaluated, and larger, to be cropped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from pas_trainer.data.batches import read_batches
from pas_trainer.data.config import DataConfig
from pas_trainer.data.sources import decode

LARGER = 286 / 256
"""What pix2pix and CycleGAN enlarge a picture by before they crop it."""


class Pictures(Protocol):
    """Pictures of one size, and the same ones a little larger."""

    larger_size: int
    """Height and width of the larger ones in pixels."""

    def __len__(self) -> int:
        """Return the number of pictures."""
        ...

    def read(self, batches: Iterable[Tensor], *, larger: bool) -> Iterator[Tensor]:
        """Yield pictures, uint8 (n, C, S, S), for each batch of indices."""
        ...


class MemoryPictures:
    """Decoded pictures in memory, on any device.

    Args:
        pictures: uint8 (N, C, S, S).
        larger: the same, a little larger; or themselves, if none are cropped.
    """

    def __init__(self, pictures: Tensor, larger: Tensor) -> None:
        self.pictures, self.larger = pictures, larger
        self.larger_size = larger.shape[-1]

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def num_bytes(self) -> int:
        """Memory that the pictures take."""
        own = 0 if self.larger is self.pictures else self.larger.nbytes
        return self.pictures.nbytes + own

    def to(self, device: torch.device) -> MemoryPictures:
        """Return the same pictures on a device."""
        pictures = self.pictures.to(device)
        larger = pictures if self.larger is self.pictures else self.larger.to(device)
        return MemoryPictures(pictures, larger)

    def read(self, batches: Iterable[Tensor], *, larger: bool) -> Iterator[Tensor]:
        """See :class:`Pictures`."""
        pictures = self.larger if larger else self.pictures
        chosen = list(batches)
        # Brought to the device at once: a GPU that has to wait for a copy in every step falls idle.
        indices = torch.cat(chosen).to(pictures.device)
        for batch in torch.split(indices, [len(each) for each in chosen]):
            yield pictures[batch]


class DiskPictures:
    """Pictures decoded anew each time by worker processes."""

    def __init__(self, pictures: _Decoded, larger: _Decoded, workers: int) -> None:
        self._pictures, self._larger, self._workers = pictures, larger, workers
        self.larger_size = larger.size

    def __len__(self) -> int:
        return len(self._pictures)

    def read(self, batches: Iterable[Tensor], *, larger: bool) -> Iterator[Tensor]:
        """See :class:`Pictures`."""
        # A generator of its own: the network's random numbers are the same as from memory.
        generator = torch.Generator().manual_seed(0)
        pictures = self._larger if larger else self._pictures
        return read_batches(pictures, batches, self._workers, generator=generator)


def load_pictures(
    files: Sequence[Path], size: int, config: DataConfig, *, augment: bool, halves: int = 1
) -> Pictures:
    """Return pictures in memory if they fit ``config.memory_gib`` decoded, else on disk.

    Args:
        files: one per picture.
        size: height and width in pixels.
        config: how they are read.
        augment: whether larger ones are needed.
        halves: 2 if a file holds two pictures side by side: 6 channels, the left ones first.

    Raises:
        DataError: naming the file, if one cannot be decoded (at once, or when first read).
    """
    larger_size = round(size * LARGER) if augment else size
    pictures, larger = (_Decoded(files, each, halves) for each in (size, larger_size))
    num_bytes = len(files) * 3 * halves * (size**2 + (larger_size**2 if augment else 0))
    if num_bytes > config.memory_gib * 2**30:
        return DiskPictures(pictures, larger, config.workers)
    in_memory = _stacked(pictures)
    return MemoryPictures(in_memory, _stacked(larger) if augment else in_memory)


def stretched(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    """Bring a picture of any shape to (size, size, 3), bicubically."""
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))


class _Decoded(Dataset[Tensor]):
    """Decodes and stretches one file at a time."""

    def __init__(self, files: Sequence[Path], size: int, halves: int) -> None:
        self.files, self.size, self.halves = files, size, halves

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        whole = decode(self.files[index])
        width = whole.width // self.halves
        pictures = [
            whole.crop((i * width, 0, (i + 1) * width, whole.height)) for i in range(self.halves)
        ]
        array = np.concatenate([stretched(each, self.size) for each in pictures], axis=2)
        return torch.from_numpy(array).permute(2, 0, 1)


def _stacked(pictures: _Decoded) -> Tensor:
    """Return all pictures, uint8 (N, C, S, S)."""
    shape = (len(pictures), 3 * pictures.halves, pictures.size, pictures.size)
    images = torch.empty(shape, dtype=torch.uint8)
    for i in range(len(pictures)):
        images[i] = pictures[i]
    return images
