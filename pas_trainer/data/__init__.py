"""Image-classification data: three splits, ready to be read in batches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from pas_trainer.data.batches import Batch, MemorySplit, Split, load_split
from pas_trainer.data.config import DATASETS, DataConfig
from pas_trainer.data.sources import open_sources

_STATISTICS_IMAGES = 4096
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

__all__ = ["DATASETS", "Batch", "ClassificationData", "DataConfig", "load_data", "open_sources"]


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


@lru_cache(maxsize=2)
def load_data(config: DataConfig) -> ClassificationData:
    """Index, split and (where they fit in memory) decode a data set; kept for the next call.

    Raises:
        DataError: naming the folder or the file that cannot be used.
    """
    sources = open_sources(config)
    train = load_split(sources.train, sources, config)
    mean, std = _statistics(train)
    return ClassificationData(
        train=train,
        validation=load_split(sources.validation, sources, config),
        test=load_split(sources.test, sources, config),
        classes=sources.classes,
        channels=sources.channels,
        image_size=sources.image_size,
        mean=mean,
        std=std,
    )


def _statistics(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel over at most 4,096 images; ImageNet's, if on disk."""
    if not isinstance(split, MemorySplit):
        return _IMAGENET_MEAN, _IMAGENET_STD
    stride = max(1, len(split) // _STATISTICS_IMAGES)
    images = split.images[::stride].double() / 255
    mean = images.mean(dim=(0, 2, 3))
    std = images.std(dim=(0, 2, 3)).clamp_min(1e-3)
    return _rounded(mean), _rounded(std)


def _rounded(values: torch.Tensor) -> tuple[float, ...]:
    return tuple(round(float(v), 4) for v in values)
