"""Proof that two forms of one network give the same answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pas_trainer import Task

Form = Callable[[Any], Any]
"""A network in one of its forms: takes plain images, a tensor (N, C, H, W) or a list of (C, h, w),
float32 in [0, 1], and returns its answers; see :meth:`pas_trainer.Task.plain`."""

Error = Callable[[Any, Any], float]
"""How far answers are apart, see :meth:`pas_trainer.Task.error`."""

PARITY_TOLERANCE = 1e-4
"""Largest error of answers that two forms of one network may have."""

CHUNK = 64
"""Images per forward pass, so that memory does not grow with their number."""


class ParityError(ValueError):
    """Two forms of one network give different answers."""


def compare_answers(expected: Any, found: Any, error: Error) -> float:
    """Return how far the answers of two forms are apart.

    Args:
        expected: of the reference.
        found: of the form that shall equal it.
        error: of answers.

    Raises:
        ParityError: the error is above :data:`PARITY_TOLERANCE` or not a number, or the shapes
            differ.
    """
    if isinstance(expected, Tensor) and expected.shape != found.shape:
        raise ParityError(
            f"answers have shapes {tuple(expected.shape)} and {tuple(found.shape)}, expected equal"
        )
    size = error(expected, found)
    if not size <= PARITY_TOLERANCE:
        raise ParityError(
            f"the answers of the two forms differ by {size:.3g} (relative), more than "
            f"{PARITY_TOLERANCE:g}"
        )
    return size


def eval_batch(task: Task) -> int:
    """Return how many images the forms of a network are measured on at a time."""
    return min(CHUNK, task.eval_batch)


def parts_of(images: Any, size: int) -> list[Any]:
    """Return images, a tensor or a list, in parts of at most ``size``."""
    return [images[start : start + size] for start in range(0, len(images), size)]


def repeated(images: Any, count: int) -> Any:
    """Return ``count`` images, over and over if there are fewer."""
    which = torch.arange(count) % len(images)
    return images[which] if isinstance(images, Tensor) else [images[i] for i in which.tolist()]
