"""Which images are trained on and which are held out, where images have no class of their own."""

from __future__ import annotations

from pathlib import Path

import torch

from pas_trainer.data.config import DataConfig
from pas_trainer.data.places import address_of
from pas_trainer.data.sources import is_image
from pas_trainer.errors import DataError

_DEVICE_SHARE = 0.25
"""Share of a GPU's free memory that images may take; several trials may share one GPU."""


def drawn(count: int, limit: int | None, seed: int) -> list[int]:
    """Return ``limit`` of ``count`` indices, or all of them, in random order."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[:limit].tolist()


def hold_out(indices: list[int], config: DataConfig) -> tuple[list[int], list[int]]:
    """Split indices in random order into those to train on and those to validate on, each sorted.

    Raises:
        DataError: one of the two would be empty.
    """
    if len(indices) < 2:
        raise DataError(
            f"data.root {config.root} has {len(indices)} training images to split; "
            "at least 2 are needed, to hold one out for validation"
        )
    held_out = max(1, round(len(indices) * config.validation))
    if held_out >= len(indices):
        raise DataError(f"validation {config.validation} leaves no image to train on")
    return sorted(indices[held_out:]), sorted(indices[:held_out])


def images_in(folder: Path) -> list[Path]:
    """Return the image files of a folder, by name.

    Raises:
        DataError: there are none.
    """
    if not folder.is_dir():
        raise DataError(f"data folder {address_of(folder)} does not exist; see data.root")
    files = sorted(p for p in folder.iterdir() if is_image(p))
    if not files:
        raise DataError(f"data folder {address_of(folder)} holds no images; see data.root")
    return files


def named(path: Path) -> str:
    """Return what a fingerprint keeps of a file: its folder, name and size."""
    return f"{path.parent.name}/{path.name}:{path.stat().st_size};"


def fits(device: torch.device, num_bytes: int) -> bool:
    """Whether images may be kept on a device: in a quarter of a GPU's free memory."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return num_bytes <= _DEVICE_SHARE * free
