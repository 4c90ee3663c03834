"""What loads the images of a configuration, once for many trials."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

from pas_trainer.data.config import DataConfig
from pas_trainer.data.places import Place, place_of

CPU = torch.device("cpu")

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Loader(Protocol[T_co]):
    """What :func:`kept` returns."""

    def __call__(self, config: DataConfig, device: torch.device = CPU) -> T_co:
        """Load images onto a device, or find them there."""


def kept(load: Callable[[DataConfig, torch.device], T]) -> Loader[T]:
    """Keep what the last two calls have loaded.

    Other files in the place of a root (see :func:`pas_trainer.set_place`) are loaded anew.
    """

    @functools.lru_cache(maxsize=2)
    def load_once(config: DataConfig, device: torch.device, _place: Place | None) -> T:
        return load(config, device)

    @functools.wraps(load)
    def load_or_find(config: DataConfig, device: torch.device = CPU) -> T:
        return load_once(config, device, place_of(config.root) if config.root else None)

    return load_or_find
