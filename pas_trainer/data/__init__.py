"""Data of each task: three splits, ready to be read in batches.

Classification is here; outlined objects are in ``instances.py``, and what reads them in
``instance_batches.py``; images to be translated in ``pairs.py`` and ``pair_batches.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pas_trainer.data.batches import Batch, MemorySplit, Split, load_split, resize_of
from pas_trainer.data.config import DATASETS, DIRECTIONS, DataConfig
from pas_trainer.data.instance_batches import InstanceBatch, InstanceData, Target, load_instances
from pas_trainer.data.instances import InstanceSources, open_instances
from pas_trainer.data.loading import CPU, kept
from pas_trainer.data.pair_batches import PairBatch, TranslationData, load_pairs
from pas_trainer.data.pairs import PairSources, open_pairs
from pas_trainer.data.places import Place, is_remote, set_place
from pas_trainer.data.preparing import Resize, prepare_image, prepare_images
from pas_trainer.data.sources import IMAGE_SUFFIXES, file_formats, images_below, open_sources
from pas_trainer.data.splitting import fits

_STATISTICS_IMAGES = 4096
_STATISTICS_AT_ONCE = 256
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

__all__ = [
    "DATASETS",
    "DIRECTIONS",
    "IMAGE_SUFFIXES",
    "Batch",
    "ClassificationData",
    "DataConfig",
    "InstanceBatch",
    "InstanceData",
    "InstanceSources",
    "PairBatch",
    "PairSources",
    "Place",
    "Resize",
    "Target",
    "TranslationData",
    "file_formats",
    "images_below",
    "is_remote",
    "load_data",
    "load_instances",
    "load_pairs",
    "open_instances",
    "open_pairs",
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


@kept
def load_data(config: DataConfig, device: torch.device = CPU) -> ClassificationData:
    """Index, split and (where they fit in memory) decode a data set; kept for the next call.

    Args:
        config: which images.
        device: where they are kept if they fit in a quarter of its free memory.

    Raises:
        DataError: naming the folder or the file that cannot be used.
    """
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
    if not fits(device, sum(split.num_bytes for split in in_memory)):
        return list(splits)
    return [split.to(device) if isinstance(split, MemorySplit) else split for split in splits]


def _statistics(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel over 4,096 to 8,191 images, or all; ImageNet's, if on disk."""
    if not isinstance(split, MemorySplit):
        return IMAGENET_MEAN, IMAGENET_STD
    images = split.images[:: max(1, len(split) // _STATISTICS_IMAGES)]
    counts = torch.zeros(images.shape[1], 256, dtype=torch.double)
    for part in torch.split(images, _STATISTICS_AT_ONCE):
        for channel, values in enumerate(part.unbind(dim=1)):
            counts[channel] += torch.bincount(values.flatten(), minlength=256).cpu()
    values = torch.arange(256, dtype=torch.double) / 255
    total = counts.sum(dim=1)
    mean = counts @ values / total
    variance = (counts * (values - mean[:, None]) ** 2).sum(dim=1) / (total - 1)
    return _rounded(mean), _rounded(variance.sqrt().clamp_min(1e-3))


def _rounded(values: torch.Tensor) -> tuple[float, ...]:
    return tuple(round(float(v), 4) for v in values)
