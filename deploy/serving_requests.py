"""What a request asks to have classified: its body, read within limits, as images for a network.

A body is bytes of an image file, a form with files, or JSON. Whatever is wrong with one ends in
:class:`RequestError`: a status of HTTP and a sentence.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from torch import Tensor

from pas_trainer import Resize, file_formats, prepare_image
from search_space import Architecture

_KINDS = (
    "send an image as image/*, files as multipart/form-data, or application/json as "
    '{"image": ...} or {"images": [...]}'
)
_PIXELS = "whole numbers from 0 to 255, rows of {}"
_FORM_FIELDS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a request may cost.

    Attributes:
        body_bytes: of its body.
        pixels: of one image, as it is sent and as it is resized.
        images: in one request.
        requests: that are dealt with at a time, by each replica.
        held_bytes: of the bodies of all these together.
        timeout_s: from its first byte to its answer, in seconds.
    """

    body_bytes: int = 16 << 20
    pixels: int = 25_000_000
    images: int = 32
    requests: int = 128
    held_bytes: int = 256 << 20
    timeout_s: float = 30.0


class RequestError(ValueError):
    """A request is refused: by this status, in one sentence; ``retry`` if it may be sent again."""

    def __init__(self, status: int, sentence: str, *, retry: bool = False) -> None:
        super().__init__(sentence)
        self.status = status
        self.retry = retry


async def form_images(headers: Headers, body: bytes, limits: Limits) -> list[bytes]:
    """Return the files of a form (``multipart/form-data``), whatever their fields are named.

    Raises:
        RequestError: it is no form, or has other fields or too many files.
    """

    async def whole() -> AsyncIterator[bytes]:
        yield body

    parser = MultiPartParser(headers, whole(), max_files=limits.images, max_fields=_FORM_FIELDS)  # type: ignore[arg-type]
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise _too_many(limits) from None
        raise RequestError(400, f"the form cannot be read: {error.message}") from None
    except (KeyError, UnicodeError, ValueError):
        raise RequestError(400, "the form cannot be read: it is malformed") from None
    try:
        files = [value for _, value in form.multi_items()]
        if not all(isinstance(file, UploadFile) for file in files):
            raise RequestError(422, "the form has a field that is not a file; send image files")
        return [await file.read() for file in files if isinstance(file, UploadFile)]
    finally:
        await form.close()


def json_images(body: bytes) -> list[Any]:
    """Return the images of a JSON body: bytes of files (they are sent in base64), or nested lists.

    Raises:
        RequestError: it is not JSON, or other JSON.
    """
    try:
        document = json.loads(body, parse_constant=_not_finite)
    except RequestError:
        raise
    except (ValueError, RecursionError):
        raise RequestError(400, f"the body is not JSON; {_KINDS}") from None
    if not isinstance(document, dict) or set(document) not in ({"image"}, {"images"}):
        raise RequestError(422, f"the JSON is no request; {_KINDS}")
    images = [document["image"]] if "image" in document else document["images"]
    if not isinstance(images, list):
        raise RequestError(422, "images is not a list; for a single image take image")
    return [_of_base64(image) if isinstance(image, str) else image for image in images]


def prepared(
    images: Sequence[Any], architecture: Architecture, resize: Resize, limits: Limits
) -> Tensor:
    """Return images as the network was evaluated on, uint8 (N, C, size, size).

    Args:
        images: bytes of files, or nested lists of pixels, (H, W) or (H, W, C).
        architecture: gives size and channels.
        resize: how images are prepared for the network.
        limits: what the images may cost.

    Raises:
        RequestError: there are none or too many, or one cannot be decoded, has too many pixels,
            another shape, or values that are no pixels.
    """
    if not images:
        raise RequestError(422, f"there is no image in the request; {_KINDS}")
    if len(images) > limits.images:
        raise _too_many(limits)
    size, channels = architecture.image_size, architecture.in_channels
    arrays = []
    for number, image in enumerate(images):
        where = f"image {number}" if len(images) > 1 else "the image"
        if isinstance(image, bytes):
            arrays.append(_of_file(image, size, channels, resize, limits, where))
        else:
            pixels = _of_lists(image, channels, where)
            _check_pixels(pixels.shape[1], pixels.shape[0], size, limits, where)
            arrays.append(prepare_image(pixels, size, channels, resize))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def _of_file(
    content: bytes, size: int, channels: int, resize: Resize, limits: Limits, where: str
) -> NDArray[np.uint8]:
    """Decode a file; its size is in the header, and is checked before anything is unpacked."""
    try:
        with Image.open(io.BytesIO(content), formats=file_formats()) as opened:
            width, height = opened.size
        _check_pixels(width, height, size, limits, where)
        return prepare_image(io.BytesIO(content), size, channels, resize)
    except RequestError:
        raise
    except Image.DecompressionBombError:
        raise _too_large(limits, where) from None
    except Exception:  # what decoders raise on malformed files is not documented
        kinds = ", ".join(file_formats())
        raise RequestError(422, f"{where} cannot be decoded; send one of {kinds}") from None


def _of_lists(image: Any, channels: int, where: str) -> NDArray[np.uint8]:
    wanted = _PIXELS.format("pixels" if channels == 1 else f"pixels of {channels} values")
    # First, since numpy makes every cell of an array of texts as wide as the longest one.
    if not _holds_numbers(image, levels=4):
        raise RequestError(422, f"{where} does not consist of numbers; send {wanted}")
    try:
        array = np.array(image)
    except (ValueError, OverflowError):
        raise RequestError(422, f"{where} has rows of unequal lengths; send {wanted}") from None
    if array.dtype.kind not in "iuf":  # numbers of any size are objects
        raise RequestError(422, f"{where} does not consist of numbers; send {wanted}")
    if channels == 1 and array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] != channels or 0 in array.shape:
        raise RequestError(422, f"{where} has the shape {array.shape}; send {wanted}")
    if not ((array >= 0) & (array <= 255)).all() or (array % 1).any():
        raise RequestError(422, f"{where} has values that are no pixels; send {wanted}")
    return array.astype(np.uint8)


def _holds_numbers(values: Any, levels: int) -> bool:
    """Whether lists, of so many levels at most, hold numbers alone."""
    if isinstance(values, list):
        return levels > 0 and all(_holds_numbers(value, levels - 1) for value in values)
    return type(values) in {int, float}


def _of_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise RequestError(422, "an image is a string, but not the base64 of a file") from None


def _check_pixels(width: int, height: int, size: int, limits: Limits, where: str) -> None:
    """Check an image as it is, and as it is once its shorter side has the network's size."""
    shorter, longer = sorted((width, height))
    resized = (2 * size) ** 2 * longer // max(1, shorter)  # at most: centre takes 1.31 of it
    if width * height > limits.pixels or resized > max(limits.pixels, (2 * size) ** 2):
        raise _too_large(limits, where)


def _too_large(limits: Limits, where: str) -> RequestError:
    most = f"{limits.pixels} pixels, as it is and brought to the network's size"
    return RequestError(413, f"{where} is too large; send at most {most}")


def _too_many(limits: Limits) -> RequestError:
    return RequestError(413, f"too many images; send at most {limits.images} in one request")


def _not_finite(name: str) -> float:
    raise RequestError(422, f"the JSON has the value {name}; send finite numbers")
