"""Batches for training and evaluation: from memory where the images fit, else from disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pas_trainer.data.config import DataConfig
from pas_trainer.data.sources import Source, Sources, decode
from pas_trainer.errors import DataError

Batch = tuple[Tensor, Tensor]
"""Images uint8 (N, C, H, W) and labels int64 (N,)."""


class Split(Protocol):
    """One split of a data set, ready to be read in batches."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def train_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """Yield shuffled, augmented, full batches; the same ones for the same seed."""
        ...

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield all images in order, as they are."""
        ...


class MemorySplit:
    """Decoded images in memory, on any device; augmentation is done on whole batches.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        padding: pixels a random crop may shift by; 0 for none.
        mirror: whether half of the images are mirrored left to right.
    """

    def __init__(self, images: Tensor, labels: Tensor, padding: int, mirror: bool) -> None:
        self.images, self.labels = images, labels
        self.padding, self.mirror = padding, mirror

    def __len__(self) -> int:
        return len(self.labels)

    def train_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """See :class:`Split`."""
        generator = torch.Generator().manual_seed(seed)
        batch_size = min(batch_size, len(self))
        order = torch.randperm(len(self), generator=generator)
        for start in range(0, len(self) - batch_size + 1, batch_size):
            index = order[start : start + batch_size].to(self.images.device)
            yield self._augment(self.images[index], generator), self.labels[index]

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        """See :class:`Split`."""
        for start in range(0, len(self), batch_size):
            stop = start + batch_size
            yield self.images[start:stop], self.labels[start:stop]

    def _augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        num, _, height, width = images.shape
        device = images.device
        if self.mirror:
            mirrored = torch.rand(num, generator=generator).to(device) < 0.5
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
        if self.padding:
            p = self.padding
            shifts = torch.randint(0, 2 * p + 1, (2, num, 1), generator=generator).to(device)
            rows = shifts[0] + torch.arange(height, device=device)
            columns = shifts[1] + torch.arange(width, device=device)
            padded = torch.nn.functional.pad(images, (p, p, p, p))
            batch = torch.arange(num, device=device).view(-1, 1, 1)
            # Advanced indices around the channel slice put channels last: (N, H, W, C).
            cropped = padded[batch, :, rows[:, :, None], columns[:, None, :]]
            images = cropped.permute(0, 3, 1, 2)
        return images


class DiskSplit:
    """Images decoded anew each epoch by worker processes (data sets larger than memory)."""

    def __init__(self, source: Source, sources: Sources, config: DataConfig) -> None:
        from torchvision.transforms import v2

        size = sources.image_size
        evaluate = [v2.Resize(round(size * 256 / 224), antialias=True), v2.CenterCrop(size)]
        train = [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
        self._train = _Decoded(source, v2.Compose(train if config.augment else evaluate))
        self._evaluate = _Decoded(source, v2.Compose(evaluate))
        self._workers = config.workers

    def __len__(self) -> int:
        return len(self._train)

    def train_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """See :class:`Split`."""
        generator = torch.Generator().manual_seed(seed)
        batch_size = min(batch_size, len(self))
        yield from self._load(self._train, batch_size, generator)

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        """See :class:`Split`."""
        yield from self._load(self._evaluate, batch_size, None)

    def _load(
        self, dataset: _Decoded, batch_size: int, generator: torch.Generator | None
    ) -> Iterator[Batch]:
        loader = DataLoader(
            dataset,
            batch_size,
            shuffle=generator is not None,
            drop_last=generator is not None,
            num_workers=self._workers,
            generator=generator,
            pin_memory=torch.cuda.is_available(),
        )
        try:
            yield from loader
        except DataError as error:  # a worker's error carries its traceback; keep the sentence
            raise DataError(str(error).strip().rsplit("DataError: ", 1)[-1]) from None


class _Decoded(Dataset[tuple[Tensor, int]]):
    """Decodes and transforms one file at a time."""

    def __init__(self, source: Source, transform: object) -> None:
        self._source, self._transform = source, transform

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self._source.images[index]
        assert isinstance(image, Path)
        transformed = self._transform(decode(image))  # type: ignore[operator]
        array = torch.from_numpy(np.asarray(transformed).copy())
        return array.permute(2, 0, 1), self._source.labels[index]


def load_split(source: Source, sources: Sources, config: DataConfig) -> Split:
    """Return a split in memory if its decoded images fit ``config.memory_gib``, else on disk.

    Raises:
        DataError: naming the file, if an image cannot be decoded (at once, or when first read).
    """
    size, channels = sources.image_size, sources.channels
    total_bytes = len(source) * channels * size * size
    if not isinstance(source.images, np.ndarray) and total_bytes > config.memory_gib * 2**30:
        return DiskSplit(source, sources, config)
    images = np.empty((len(source), size, size, channels), np.uint8)
    for i, image in enumerate(source.images):
        images[i] = _resized(image, size, channels)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    padding = max(1, size // 8) if config.augment else 0
    mirror = config.augment and config.name != "digits"
    return MemorySplit(tensor, torch.as_tensor(source.labels), padding, mirror)


def _resized(image: Path | np.ndarray, size: int, channels: int) -> np.ndarray:
    """Bring one image to (size, size, channels): shorter side to ``size``, then a centre crop."""
    if isinstance(image, np.ndarray) and image.shape[:2] == (size, size):
        return image
    if isinstance(image, np.ndarray):
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    else:
        picture = decode(image, channels)
    if picture.size != (size, size):
        scale = size / min(picture.size)
        width, height = (max(size, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - size) // 2, (height - size) // 2
        picture = picture.crop((left, top, left + size, top + size))
    return np.asarray(picture).reshape(size, size, channels)
