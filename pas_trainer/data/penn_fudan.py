"""The Penn-Fudan pedestrians (Wang et al., 2007), and other folders in their layout.

``root/PNGImages/X.png`` are the images, ``root/PedMasks/X_mask.png`` hold the number of an object
at each of its pixels, and 0 elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pas_trainer.data.places import address_of
from pas_trainer.data.sources import opened
from pas_trainer.data.splitting import images_in, named
from pas_trainer.errors import DataError


@dataclass(frozen=True, slots=True)
class NumberedImage:
    """One image whose objects are numbered in a file beside it.

    Attributes:
        path: the image.
        numbers: the file of the objects' numbers.
        width, height: in pixels.
        num_objects: on the image.
    """

    path: Path
    numbers: Path
    width: int
    height: int
    num_objects: int

    def objects(self) -> tuple[Tensor, Tensor]:
        """Return what is on the image: labels int64 (n,), all 1, and masks uint8 (n, H, W)."""
        pixels = _read_numbers(self.numbers)
        numbers = _objects(pixels)
        masks = torch.from_numpy(pixels[None] == numbers[:, None, None]).to(torch.uint8)
        return torch.ones(len(numbers), dtype=torch.int64), masks

    def identity(self) -> str:
        """Return what a fingerprint keeps."""
        return named(self.path) + named(self.numbers)


def read_penn_fudan(root: Path) -> list[NumberedImage]:
    """Index all images, in the order of their names; of the masks all is read.

    Raises:
        DataError: a folder is missing or empty, an image or mask has no partner, or one of
            another size.
    """
    images = images_in(root / "PNGImages")
    masks = {path.stem.removesuffix("_mask"): path for path in images_in(root / "PedMasks")}
    for image in images:
        if image.stem not in masks:
            expected = address_of(root / "PedMasks" / f"{image.stem}_mask.png")
            raise DataError(
                f"image {address_of(image)} has no mask {expected}; add it (black, if nothing is "
                "on the image) or remove the image"
            )
    strangers = sorted(masks.keys() - {image.stem for image in images})
    if strangers:
        raise DataError(f"mask {address_of(masks[strangers[0]])} has no image; add or remove it")
    return [_indexed(image, masks[image.stem]) for image in images]


def _indexed(image: Path, mask: Path) -> NumberedImage:
    with opened(image) as picture:
        width, height = picture.size
    pixels = _read_numbers(mask)
    if pixels.shape != (height, width):
        raise DataError(
            f"mask {address_of(mask)} is of {pixels.shape[1]}x{pixels.shape[0]} pixels, its image "
            f"of {width}x{height}; replace or remove both"
        )
    return NumberedImage(image, mask, width, height, len(_objects(pixels)))


def _read_numbers(mask: Path) -> NDArray[np.int64]:
    with opened(mask) as picture:
        pixels = np.asarray(picture)
    if pixels.ndim != 2:
        raise DataError(
            f"mask {address_of(mask)} is in colours ({picture.mode}); it must hold one number per "
            "pixel, that of the object there"
        )
    if pixels.dtype.kind == "f" or pixels.min(initial=0) < 0:
        raise DataError(
            f"mask {address_of(mask)} holds fractions or numbers below 0; it must hold one number "
            "per pixel, that of the object there, and 0 where there is none"
        )
    return pixels.astype(np.int64)


def _objects(pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the objects' numbers, (n,)."""
    numbers = np.unique(pixels)
    return numbers[numbers > 0]
