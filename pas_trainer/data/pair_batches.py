"""Batches of images and what they are to be translated to, augmented as pix2pix and CycleGAN do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pas_trainer.data.batches import WHOLE, Share, shuffled
from pas_trainer.data.config import DataConfig
from pas_trainer.data.loading import CPU, kept
from pas_trainer.data.pairs import PairFiles, PairSources, open_pairs
from pas_trainer.data.pictures import MemoryPictures, Pictures, load_pictures
from pas_trainer.data.splitting import fits

PairBatch = tuple[Tensor, Tensor]
"""Inputs and targets, both uint8 (N, 3, S, S)."""


@dataclass(frozen=True, slots=True)
class TranslationData:
    """Training, validation and test split, and what a network needs to know of them.

    Attributes:
        train, validation, test: the splits; as long as there are images to translate from.
        classes: none.
        channels: of an image, 3.
        image_size: height and width in pixels.
        mean, std: a half, so that normalized images are in [-1, 1].
        paired: whether targets are the translations of the inputs, or any images of their domain.
    """

    train: PairSplit
    validation: PairSplit
    test: PairSplit
    image_size: int
    paired: bool
    classes: tuple[str, ...] = ()
    channels: int = 3
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)


@kept
def load_pairs(config: DataConfig, device: torch.device = CPU) -> TranslationData:
    """Index, split and (where they fit in memory) decode a data set; kept for the next call.

    Args:
        config: which images.
        device: where they are kept if they fit in a quarter of its free memory.

    Raises:
        DataError: naming the folder or the file that cannot be used.
    """
    sources = open_pairs(config)
    train = load_pair_split(sources.train, sources, config, augment=config.augment)
    validation, test = (
        load_pair_split(files, sources, config) for files in (sources.validation, sources.test)
    )
    if fits(device, sum(split.num_bytes for split in (train, validation, test))):
        train, validation, test = (split.to(device) for split in (train, validation, test))
    return TranslationData(
        train=train,
        validation=validation,
        test=test,
        image_size=sources.image_size,
        paired=sources.paired,
    )


def load_pair_split(
    files: PairFiles, sources: PairSources, config: DataConfig, *, augment: bool = False
) -> PairSplit:
    """Return a split in memory if its decoded images fit ``config.memory_gib``, else on disk.

    Args:
        files: its images.
        sources: what all splits have in common.
        config: how images are read.
        augment: whether its training batches are cropped and mirrored at random.

    Raises:
        DataError: naming the file, if an image cannot be decoded (at once, or when first read).
    """
    size = sources.image_size
    if sources.paired:
        both = [load_pictures(files.inputs, size, config, augment=augment, halves=2)]
    else:
        both = [
            load_pictures(each, size, config, augment=augment)
            for each in (files.inputs, files.targets)
        ]
    reverse = sources.paired and sources.direction == "b_to_a"
    return PairSplit(both, size, augment=augment, reverse=reverse)


class PairSplit:
    """Inputs and targets of a translation, see :class:`pas_trainer.data.batches.Split`.

    Training images are enlarged to 286/256 of their size, cropped and mirrored at random, the two
    of a pair in the same way. Batches are the same whether images are in memory or on disk.

    Of unpaired images an epoch goes over the inputs; each gets an image of the other domain drawn
    at random, all of which are used before one is again. In evaluation the i-th input has the i-th
    of the other domain beside it, counted from the start again when there are no more.

    Args:
        pictures: of pairs (N, 6, ...), A before B; or of inputs and of targets, (N, 3, ...) each.
        size: height and width in pixels.
        augment: whether training images are cropped and mirrored.
        reverse: whether pairs are translated from B to A; unpaired ones are ordered already.
    """

    def __init__(
        self, pictures: Sequence[Pictures], size: int, *, augment: bool, reverse: bool = False
    ) -> None:
        self.pictures, self.size, self.augment, self.reverse = pictures, size, augment, reverse

    def __len__(self) -> int:
        return len(self.pictures[0])

    @property
    def num_bytes(self) -> int:
        """Memory that the images take."""
        return sum(each.num_bytes for each in self.pictures if isinstance(each, MemoryPictures))

    def to(self, device: torch.device) -> PairSplit:
        """Return the same split with what is in memory on a device."""
        moved = [
            each.to(device) if isinstance(each, MemoryPictures) else each for each in self.pictures
        ]
        return PairSplit(moved, self.size, augment=self.augment, reverse=self.reverse)

    def train_batches(
        self, batch_size: int, seed: int, share: Share = WHOLE
    ) -> Iterator[PairBatch]:
        """Yield shares of shuffled, augmented, full batches; the same ones for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        batches = list(shuffled(len(self), batch_size, generator))
        chosen = [
            batches,
            *(self._partners(batches, each, generator) for each in self.pictures[1:]),
        ]
        reads = [
            _augmented(each, which, self.size, self.augment, generator, share)
            for each, which in zip(self.pictures, chosen, strict=True)
        ]
        yield from self._pairs(reads)

    def eval_batches(self, batch_size: int, share: Share = WHOLE) -> Iterator[PairBatch]:
        """Yield shares of all inputs in order, as they are, and what is beside them."""
        batches = torch.split(torch.arange(len(self)), batch_size)
        yield from self._pairs(
            [
                each.read([batch[share.items] % len(each) for batch in batches], larger=False)
                for each in self.pictures
            ]
        )

    @staticmethod
    def _partners(
        batches: Sequence[Tensor], pictures: Pictures, generator: torch.Generator
    ) -> list[Tensor]:
        """Draw images of the other domain, all of them before one is drawn again."""
        sizes = [len(batch) for batch in batches]
        rounds = -(-sum(sizes) // len(pictures))
        order = [torch.randperm(len(pictures), generator=generator) for _ in range(rounds)]
        return list(torch.split(torch.cat(order)[: sum(sizes)], sizes))

    def _pairs(self, reads: Sequence[Iterable[Tensor]]) -> Iterator[PairBatch]:
        for parts in zip(*reads, strict=True):
            a, b = parts if len(parts) == 2 else parts[0].chunk(2, dim=1)
            yield (b, a) if self.reverse else (a, b)


def _augmented(
    pictures: Pictures,
    batches: Sequence[Tensor],
    size: int,
    augment: bool,
    generator: torch.Generator,
    share: Share,
) -> Iterator[Tensor]:
    """Draw how the pictures of whole batches are cropped and mirrored; return a share of them.

    It is drawn at once, before anything is read: another share or place leaves it as it is.
    """
    shares = [batch[share.items] for batch in batches]
    if not augment:
        return pictures.read(shares, larger=False)
    range_ = pictures.larger_size - size + 1
    shifts = [torch.randint(0, range_, (len(b), 2), generator=generator) for b in batches]
    flips = [torch.rand(len(b), generator=generator) < 0.5 for b in batches]
    read = pictures.read(shares, larger=True)
    return (
        cropped(images, by[share.items], flip[share.items], size)
        for images, by, flip in zip(read, shifts, flips, strict=True)
    )


def cropped(images: Tensor, shifts: Tensor, mirrored: Tensor, size: int) -> Tensor:
    """Return a square of each image, some of them mirrored left to right.

    Args:
        images: (N, C, H, W).
        shifts: its first row and column, (N, 2).
        mirrored: which are mirrored, bool (N,).
        size: its height and width.

    Returns:
        (N, C, size, size).
    """
    squares = []
    for image, (row, column), flip in zip(images, shifts.tolist(), mirrored.tolist(), strict=True):
        square = image[:, row : row + size, column : column + size]
        squares.append(square.flip(2) if flip else square)
    return torch.stack(squares) if squares else images[:, :, :size, :size]
