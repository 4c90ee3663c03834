"""Batches for training and evaluation: from memory where the images fit, else from disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pas_trainer.data.config import DataConfig
from pas_trainer.data.preparing import Resize, prepare_image
from pas_trainer.data.sources import Source, Sources, decode
from pas_trainer.errors import DataError

Batch = tuple[Tensor, Tensor]
"""Images uint8 (N, C, H, W) and labels int64 (N,)."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one of ``size`` workers reads of every batch: each ``size``-th image, from ``rank``."""

    rank: int = 0
    size: int = 1

    @property
    def items(self) -> slice:
        """The places in a batch."""
        return slice(self.rank, None, self.size)


WHOLE = Share()


class Split(Protocol):
    """One split of a data set, ready to be read in batches."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def train_batches(self, batch_size: int, seed: int, share: Share = WHOLE) -> Iterator[Any]:
        """Yield shares of shuffled, augmented, full batches; the same ones for the same seed."""
        ...

    def eval_batches(self, batch_size: int, share: Share = WHOLE) -> Iterator[Any]:
        """Yield shares of all images in order, as they are."""
        ...


class MemorySplit:
    """Decoded images in memory, on any device; crops and mirrors are gathered in one pass.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        padding: pixels a random crop may shift by; 0 for none.
        mirror: whether half of the images are mirrored left to right.
    """

    def __init__(self, images: Tensor, labels: Tensor, padding: int, mirror: bool) -> None:
        p = self.padding = padding
        self.labels, self.mirror = labels, mirror
        # Kept with their padding, one row of C values per pixel.
        padded = torch.nn.functional.pad(images, (p, p, p, p)).permute(0, 2, 3, 1).contiguous()
        self._pixels = padded.flatten(0, 2)
        rows, columns = (slice(p, p + size) for size in images.shape[2:])
        self.images = padded[:, rows, columns].permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> MemorySplit:
        """Return the same split on a device."""
        if self.labels.device == device:
            return self
        images, labels = self.images.to(device), self.labels.to(device)
        return MemorySplit(images, labels, self.padding, self.mirror)

    @property
    def num_bytes(self) -> int:
        """Memory that the images take."""
        return self._pixels.nbytes

    def train_batches(self, batch_size: int, seed: int, share: Share = WHOLE) -> Iterator[Batch]:
        """See :class:`Split`; an image looks the same whoever reads it."""
        generator = torch.Generator().manual_seed(seed)
        batches = list(shuffled(len(self), batch_size, generator))
        # Drawn for whole batches, whatever the share, and brought to the device at once: a GPU
        # that has to wait for a copy in every step falls idle.
        drawn = [self._draw(len(batch), generator) for batch in batches]
        chosen, shifts, mirrored = (
            torch.stack(list(part))[:, share.items].to(self.labels.device)
            for part in (batches, *zip(*drawn, strict=True))
        )
        for which, by, flipped in zip(chosen, shifts, mirrored, strict=True):
            yield self._augmented(which, by, flipped), self.labels[which]

    def _draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw for each of ``count`` images its shift, (count, 2), and whether it is mirrored."""
        shifts = torch.randint(0, 2 * self.padding + 1, (2, count, 1), generator=generator)
        mirrored = torch.rand(count, 1, generator=generator) < (0.5 if self.mirror else 0)
        return shifts[:, :, 0].T, mirrored[:, 0]

    def eval_batches(self, batch_size: int, share: Share = WHOLE) -> Iterator[Batch]:
        """See :class:`Split`."""
        for start in range(0, len(self), batch_size):
            batch = slice(start, start + batch_size)
            labels = self.labels[batch][share.items]
            if len(labels):
                yield self.images[batch][share.items], labels

    def _augmented(self, chosen: Tensor, shifts: Tensor, mirrored: Tensor) -> Tensor:
        """Return images, each shifted and mirrored, (n, C, H, W).

        Args:
            chosen: which, (n,).
            shifts: rows and columns, from 0 to twice the padding, (n, 2).
            mirrored: which are mirrored, bool (n,).
        """
        n, (_, channels, height, width) = len(chosen), self.images.shape
        device, p = self._pixels.device, 2 * self.padding
        columns = torch.arange(width, device=device)
        columns = shifts[:, 1:] + torch.where(mirrored[:, None], columns.flip(0), columns)
        rows = shifts[:, :1] + torch.arange(height, device=device)
        first = (chosen[:, None] * (height + p) + rows) * (width + p)  # pixel at each row's start
        pixels = first[:, :, None] + columns[:, None, :]
        cropped = self._pixels.index_select(0, pixels.flatten())
        return cropped.view(n, height, width, channels).permute(0, 3, 1, 2)


class DiskSplit:
    """Images decoded anew each epoch by worker processes (data sets larger than memory).

    Args:
        source, sources, config, augment: see :func:`load_split`.
        resize: how they are evaluated.
    """

    def __init__(
        self, source: Source, sources: Sources, config: DataConfig, resize: Resize, augment: bool
    ) -> None:
        size, channels = sources.image_size, sources.channels
        prepare = partial(prepare_image, size=size, channels=channels, resize=resize)
        self._evaluate = _Decoded(source, prepare)
        self._train = _Decoded(source, _RandomCrop(size)) if augment else self._evaluate
        self._workers = config.workers

    def __len__(self) -> int:
        return len(self._train)

    def train_batches(self, batch_size: int, seed: int, share: Share = WHOLE) -> Iterator[Batch]:
        """See :class:`Split`; crops differ from worker to worker."""
        generator = torch.Generator().manual_seed(seed)
        batches = shuffled(len(self), batch_size, generator)
        crops = generator if share == WHOLE else torch.Generator().manual_seed(seed + share.rank)
        yield from self._load(self._train, batches, share, crops)

    def eval_batches(self, batch_size: int, share: Share = WHOLE) -> Iterator[Batch]:
        """See :class:`Split`."""
        batches = torch.split(torch.arange(len(self)), batch_size)
        yield from self._load(self._evaluate, batches, share, None)

    def _load(
        self,
        dataset: _Decoded,
        batches: Iterable[Tensor],
        share: Share,
        generator: torch.Generator | None,
    ) -> Iterator[Batch]:
        # The last batch of an evaluation may have fewer images than there are workers.
        shares = (part for batch in batches if len(part := batch[share.items]))
        yield from read_batches(dataset, shares, self._workers, generator=generator)


def read_batches(
    dataset: Dataset[Any],
    batches: Iterable[Tensor],
    workers: int,
    *,
    generator: torch.Generator | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
) -> Iterator[Any]:
    """Yield batches that worker processes read.

    Args:
        dataset: what is read.
        batches: indices of each batch.
        workers: processes; 0 for this one.
        generator: what the workers' seeds are drawn from; by default torch's global one.
        collate: makes a batch of a list of items; by default they are stacked.

    Raises:
        DataError: one sentence, if an item cannot be read.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=[batch.tolist() for batch in batches],
        num_workers=workers,
        generator=generator,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
    )
    try:
        yield from loader
    except DataError as error:  # a worker's error carries its traceback; keep the sentence
        raise DataError(str(error).strip().rsplit("DataError: ", 1)[-1]) from None


def shuffled(num_images: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield full batches of indices in random order; one of all images if there are too few."""
    batch_size = min(batch_size, num_images)
    order = torch.randperm(num_images, generator=generator)
    yield from torch.split(order[: num_images // batch_size * batch_size], batch_size)


class _Decoded(Dataset[tuple[Tensor, int]]):
    """Decodes and prepares one file at a time."""

    def __init__(self, source: Source, prepare: Callable[[Path], NDArray[np.uint8]]) -> None:
        self._source, self._prepare = source, prepare

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self._source.images[index]
        assert isinstance(image, Path)
        array = torch.from_numpy(self._prepare(image).copy())
        return array.permute(2, 0, 1), self._source.labels[index]


class _RandomCrop:
    """Crops and mirrors files at random."""

    def __init__(self, size: int) -> None:
        from torchvision.transforms import v2

        steps = [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
        self._crop = v2.Compose(steps)

    def __call__(self, path: Path) -> NDArray[np.uint8]:
        return np.asarray(self._crop(decode(path)))


def resize_of(sources: Sources, config: DataConfig) -> Resize:
    """Return how the images of all splits are evaluated: as it suits how the training images are.

    Those from disk are cropped at random, mostly by much, and seen at a larger scale.
    """
    return "whole" if _fits(sources.train, sources, config, config.augment) else "centre"


def _fits(source: Source, sources: Sources, config: DataConfig, augment: bool) -> bool:
    """Whether a split is held in memory."""
    pixels = (sources.image_size + 2 * _padding(sources.image_size, augment)) ** 2
    num_bytes = len(source) * sources.channels * pixels
    return num_bytes <= config.memory_gib * 2**30 or isinstance(source.images, np.ndarray)


def _padding(size: int, augment: bool) -> int:
    """Pixels that a random crop may shift by."""
    return max(1, size // 8) if augment else 0


def load_split(
    source: Source, sources: Sources, config: DataConfig, *, augment: bool = False
) -> Split:
    """Return a split in memory if its decoded images fit ``config.memory_gib``, else on disk.

    Args:
        source: its images.
        sources: what all splits have in common.
        config: how images are read.
        augment: whether its training batches are cropped and mirrored at random.

    Raises:
        DataError: naming the file, if an image cannot be decoded (at once, or when first read).
    """
    size, channels, resize = sources.image_size, sources.channels, resize_of(sources, config)
    if not _fits(source, sources, config, augment):
        return DiskSplit(source, sources, config, resize, augment)
    padding = _padding(size, augment)
    images = np.empty((len(source), size, size, channels), np.uint8)
    for i, image in enumerate(source.images):
        images[i] = prepare_image(image, size, channels, resize)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    mirror = augment and config.name != "digits"
    return MemorySplit(tensor, torch.as_tensor(source.labels), padding, mirror)
