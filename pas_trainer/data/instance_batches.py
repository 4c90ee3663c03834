"""Batches of images with outlined objects, as torchvision's detectors read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from pas_trainer.data.batches import WHOLE, Share, read_batches, shuffled
from pas_trainer.data.config import DataConfig
from pas_trainer.data.instances import AnnotatedImage, open_instances
from pas_trainer.data.loading import CPU, kept
from pas_trainer.data.places import address_of
from pas_trainer.data.sources import decode
from pas_trainer.data.splitting import fits
from pas_trainer.errors import DataError

Target = dict[str, Tensor]
"""``boxes`` float32 (n, 4), ``labels`` int64 (n,), ``masks`` uint8 (n, h, w); see below."""
Item = tuple[Tensor, Target]
"""An image uint8 (3, h, w) and what is on it."""
InstanceBatch = tuple[list[Tensor], list[Target]]


@dataclass(frozen=True, slots=True)
class InstanceData:
    """Training, validation and test split, and what a network needs to know of them.

    The images of a batch differ in size, and are lists therefore. Boxes are (left, top, right,
    bottom) in pixels of their image, around all pixels of the object's mask: one of a single pixel
    in the corner is (0, 0, 1, 1). Labels count from 1, as 0 is the background.

    Attributes:
        train, validation, test: the splits.
        classes: names of labels 1, 2, ...
        channels: of an image, 3.
        image_size: the longer side of every image in pixels.
        mean, std: 0 and 1; torchvision's detectors normalize images, in [0, 1], themselves.
    """

    train: InstanceSplit
    validation: InstanceSplit
    test: InstanceSplit
    classes: tuple[str, ...]
    channels: int
    image_size: int
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)


@kept
def load_instances(config: DataConfig, device: torch.device = CPU) -> InstanceData:
    """Index, split and (where they fit in memory) decode a data set; kept for the next call.

    Args:
        config: which images.
        device: where they are kept if they fit in a quarter of its free memory.

    Raises:
        DataError: naming the folder or the file that cannot be used.
    """
    sources = open_instances(config)
    train = load_instance_split(sources.train, config, mirror=config.augment)
    validation, test = (
        load_instance_split(images, config) for images in (sources.validation, sources.test)
    )
    if fits(device, sum(split.num_bytes for split in (train, validation, test))):
        train, validation, test = (split.to(device) for split in (train, validation, test))
    return InstanceData(
        train=train,
        validation=validation,
        test=test,
        classes=sources.classes,
        channels=sources.channels,
        image_size=sources.image_size,
    )


def load_instance_split(
    images: Sequence[AnnotatedImage], config: DataConfig, *, mirror: bool = False
) -> InstanceSplit:
    """Return a split in memory if its decoded images fit ``config.memory_gib``, else on disk.

    Args:
        images: its images.
        config: how they are read.
        mirror: whether half of the images of a training batch are mirrored left to right.

    Raises:
        DataError: naming the file, if an image cannot be decoded (at once, or when first read).
    """
    size = config.image_size
    assert size is not None
    dataset = _Decoded(images, size)
    num_bytes = sum(_bytes_of(image, size) for image in images)
    if num_bytes > config.memory_gib * 2**30:
        return InstanceSplit(dataset, mirror=mirror, workers=config.workers)
    return InstanceSplit([dataset[i] for i in range(len(images))], mirror=mirror)


class InstanceSplit:
    """Images with outlined objects, see :class:`pas_trainer.data.batches.Split`.

    Batches are the same whether images are in memory or on disk.

    Args:
        items: decoded, or what decodes them anew each time, in worker processes.
        mirror: whether half of the images of a training batch are mirrored left to right.
        workers: processes that decode.
    """

    def __init__(self, items: list[Item] | _Decoded, *, mirror: bool, workers: int = 0) -> None:
        self.items, self.mirror, self._workers = items, mirror, workers

    def __len__(self) -> int:
        return len(self.items)

    def to(self, device: torch.device) -> InstanceSplit:
        """Return the same split with what is in memory on a device."""
        if not isinstance(self.items, list):
            return self
        moved = [
            (image.to(device), {name: values.to(device) for name, values in target.items()})
            for image, target in self.items
        ]
        return InstanceSplit(moved, mirror=self.mirror)

    @property
    def num_bytes(self) -> int:
        """Memory that the images and masks take."""
        if not isinstance(self.items, list):
            return 0
        return sum(image.nbytes + target["masks"].nbytes for image, target in self.items)

    def train_batches(
        self, batch_size: int, seed: int, share: Share = WHOLE
    ) -> Iterator[InstanceBatch]:
        """Yield shares of shuffled, mirrored, full batches; the same ones for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        batches = list(shuffled(len(self), batch_size, generator))
        chance = 0.5 if self.mirror else 0
        # Drawn for whole batches: an image looks the same whoever reads it.
        drawn = [torch.rand(len(batch), generator=generator) < chance for batch in batches]
        read = self._read(batch[share.items] for batch in batches)
        for items, flips in zip(read, drawn, strict=True):
            flipped = flips[share.items].tolist()
            yield _batch(
                mirrored(item) if flip else item for item, flip in zip(items, flipped, strict=True)
            )

    def eval_batches(self, batch_size: int, share: Share = WHOLE) -> Iterator[InstanceBatch]:
        """Yield shares of all images in order, as they are."""
        batches = torch.split(torch.arange(len(self)), batch_size)
        for items in self._read(batch[share.items] for batch in batches):
            yield _batch(items)

    def _read(self, batches: Iterable[Tensor]) -> Iterator[list[Item]]:
        if isinstance(self.items, list):
            for batch in batches:
                yield [self.items[i] for i in batch.tolist()]
            return
        # A generator of its own: the network's random numbers are the same as from memory.
        generator = torch.Generator().manual_seed(0)
        for arrays in read_batches(
            self.items, batches, self._workers, generator=generator, collate=_as_arrays
        ):
            yield [_as_item(each) for each in arrays]


class _Decoded(Dataset[Item]):
    """Decodes and scales one image at a time."""

    def __init__(self, images: Sequence[AnnotatedImage], size: int) -> None:
        import torchvision.ops  # noqa: F401  takes seconds: here, rather than in every worker

        self._images, self._size = images, size

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Item:
        return decode_item(self._images[index], self._size)


def decode_item(annotated: AnnotatedImage, image_size: int) -> Item:
    """Decode one image and scale it with its masks; objects too small to leave a pixel are lost.

    Args:
        annotated: the image and what is on it.
        image_size: pixels of the longer side.

    Raises:
        DataError: naming the file, if it cannot be decoded or is not of the size it should be.
    """
    from torchvision.ops import masks_to_boxes

    picture = decode(annotated.path)
    if picture.size != (annotated.width, annotated.height):
        raise DataError(
            f"image {address_of(annotated.path)} is of {picture.width}x{picture.height} pixels, "
            f"its annotations of {annotated.width}x{annotated.height}; replace or remove both"
        )
    width, height = _scaled(annotated, image_size)
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    image = torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()
    labels, masks = annotated.objects()
    if len(masks):
        masks = torch.nn.functional.interpolate(masks[None], (height, width), mode="nearest-exact")
        masks = masks[0]
    else:
        masks = masks.new_zeros(0, height, width)
    left = masks.bool().flatten(1).any(dim=1)
    labels, masks = labels[left], masks[left]
    boxes = masks_to_boxes(masks).float() + torch.tensor([0.0, 0.0, 1.0, 1.0])
    return image, {"boxes": boxes, "labels": labels, "masks": masks}


def mirrored(item: Item) -> Item:
    """Return an image, its boxes and masks, mirrored left to right."""
    image, target = item
    left, top, right, bottom = target["boxes"].unbind(dim=1)
    boxes = torch.stack((image.shape[2] - right, top, image.shape[2] - left, bottom), dim=1)
    return image.flip(2), {**target, "boxes": boxes, "masks": target["masks"].flip(2)}


def _scaled(image: AnnotatedImage, image_size: int) -> tuple[int, int]:
    """Return width and height with the longer one at ``image_size``."""
    scale = image_size / max(image.width, image.height)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def _bytes_of(image: AnnotatedImage, image_size: int) -> int:
    """Return what a decoded image and its masks take."""
    width, height = _scaled(image, image_size)
    return width * height * (3 + image.num_objects)


def _batch(items: Iterable[Item]) -> InstanceBatch:
    read = list(items)
    return [image for image, _ in read], [target for _, target in read]


_Arrays = tuple[NDArray[Any], dict[str, NDArray[Any]]]


def _as_arrays(items: list[Item]) -> list[_Arrays]:
    """Return what a worker sends: tensors would take an open file each."""
    return [
        (image.numpy(), {name: values.numpy() for name, values in target.items()})
        for image, target in items
    ]


def _as_item(arrays: _Arrays) -> Item:
    image, target = arrays
    return torch.from_numpy(image), {name: torch.from_numpy(v) for name, v in target.items()}
