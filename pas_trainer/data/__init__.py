"""Image-classification data: three splits, ready to be read in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from pas_trainer.data.batches import Batch, MemorySplit, Split, load_split, resize_of
from pas_trainer.data.config import DATASETS, DataConfig
from pas_trainer.data.places import Place, is_remote, place_of, set_place
from pas_trainer.data.preparing import Resize, prepare_image, prepare_images
from pas_trainer.data.sources import IMAGE_SUFFIXES, open_sources

CPU = torch.device("cpu")
_DEVICE_SHARE = 0.25
"""Share of a GPU's free memory that images may take; several trials may share one GPU."""
_STATISTICS_IMAGES = 4096
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

__all__ = [
    "DATASETS",
    "IMAGE_SUFFIXES",
    "Batch",
    "ClassificationData",
    "DataConfig",
    "Place",
    "Resize",
    "is_remote",
    "load_data",
    "open_sources",
    "place_of",
    "prepare_image",
    "prepare_images",
    "resize_of",
    "set_place",
]


@dataclass(frozen=True, slots=True)
class ClassificationData:
    """Training, validation and test split, and what a network needs to know of them.

    Attributes:
        train, validation, test: the splits; validation is held out of the training images.
        classes: class names in the order of the labels.
        channels: channels of an image.
        image_size: height and width in pixels.
        mean, std: per channel, of training images scaled to [0, 1].
    """

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_data(config: DataConfig, device: torch.device = CPU) -> ClassificationData:
    """Index, split and (where they fit in memory) decode a data set; kept for the next call.

    Args:
        config: which images.
        device: where they are kept if they fit in a quarter of its free memory.

    Raises:
        DataError: naming the folder or the file that cannot be used.
    """
    return _load_data(config, device, place_of(config.root) if config.root else None)


@lru_cache(maxsize=2)
def _load_data(
    config: DataConfig, device: torch.device, _place: Place | None
) -> ClassificationData:
    """As :func:`load_data`; other files in the place of a root are loaded anew."""
    sources = open_sources(config)
    train = load_split(sources.train, sources, config, augment=config.augment)
    mean, std = _statistics(train)
    splits = [
        train,
        load_split(sources.validation, sources, config),
        load_split(sources.test, sources, config),
    ]
    train, validation, test = _near(splits, device)
    return ClassificationData(
        train=train,
        validation=validation,
        test=test,
        classes=sources.classes,
        channels=sources.channels,
        image_size=sources.image_size,
        mean=mean,
        std=std,
    )


def _near(splits: Sequence[Split], device: torch.device) -> list[Split]:
    """Return the splits on a device if they fit there, else as they are."""
    in_memory = [split for split in splits if isinstance(split, MemorySplit)]
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if sum(split.num_bytes for split in in_memory) > _DEVICE_SHARE * free:
            return list(splits)
    return [split.to(device) if isinstance(split, MemorySplit) else split for split in splits]


def _statistics(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel over at most 4,096 images; ImageNet's, if on disk."""
    if not isinstance(split, MemorySplit):
        return IMAGENET_MEAN, IMAGENET_STD
    stride = max(1, len(split) // _STATISTICS_IMAGES)
    images = split.images[::stride].double() / 255
    mean = images.mean(dim=(0, 2, 3))
    std = images.std(dim=(0, 2, 3)).clamp_min(1e-3)
    return _rounded(mean), _rounded(std)


def _rounded(values: torch.Tensor) -> tuple[float, ...]:
    return tuple(round(float(v), 4) for v in values)
