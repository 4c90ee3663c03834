"""How an image becomes what a network is evaluated on: decoded, resized, cropped.

There are two ways, as the training images are held in memory or read from disk, and whoever
classifies further images with a trained network must go the one that it was evaluated by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pas_trainer.data.sources import decode

Resize = Literal["whole", "centre"]
"""``whole``: the shorter side is brought to the image size, and the middle of the longer one kept
(training images in memory). ``centre``: the shorter side is brought to 256/224 of that, and the
middle of both kept (training images on disk)."""


Given = Path | BinaryIO | NDArray[np.uint8]
"""A file, by its path or open, or pixels, uint8 (H, W, C)."""


def prepare_image(image: Given, size: int, channels: int, resize: Resize) -> NDArray[np.uint8]:
    """Return one image as it is evaluated, uint8 (size, size, channels).

    Args:
        image: a file, by its path or open, or uint8 (H, W, C).
        size: height and width in pixels.
        channels: 3 (colours) or 1 (grey).
        resize: which way.

    Raises:
        DataError: naming the file, if it cannot be read or decoded.
    """
    if resize == "whole":
        return resized(image, size, channels)
    if isinstance(image, np.ndarray):
        picture = _picture(image, channels)
    else:
        picture = decode(image, channels)
    return np.asarray(centre_of(size)(picture)).reshape(size, size, channels)


def prepare_images(images: Iterable[Given], size: int, channels: int, resize: Resize) -> Tensor:
    """Return images as they are evaluated, uint8 (N, C, H, W); see :func:`prepare_image`.

    Raises:
        DataError: naming the file, if one cannot be read or decoded.
        ValueError: there are no images.
    """
    arrays = [prepare_image(image, size, channels, resize) for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def centre_of(size: int) -> Callable[[Image.Image], Image.Image]:
    """Return the way ``centre`` for images of a size."""
    from torchvision.transforms import v2

    steps = [v2.Resize(round(size * 256 / 224), antialias=True), v2.CenterCrop(size)]
    transform: Any = v2.Compose(steps)
    return transform  # type: ignore[no-any-return]


def resized(image: Given, size: int, channels: int) -> NDArray[np.uint8]:
    """Bring one image to (size, size, channels): shorter side to ``size``, then a centre crop.

    Raises:
        DataError: naming the file, if it cannot be read or decoded.
    """
    if isinstance(image, np.ndarray) and image.shape[:2] == (size, size):
        return image
    if isinstance(image, np.ndarray):
        picture = _picture(image, channels)
    else:
        picture = decode(image, channels)
    if picture.size != (size, size):
        scale = size / min(picture.size)
        width, height = (max(size, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - size) // 2, (height - size) // 2
        picture = picture.crop((left, top, left + size, top + size))
    return np.asarray(picture).reshape(size, size, channels)


def _picture(image: NDArray[np.uint8], channels: int) -> Image.Image:
    return Image.fromarray(image[..., 0] if channels == 1 else image)
