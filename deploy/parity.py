"""Proof that two forms of one network give the same answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from deploy.eval_mode import inference
from pas_trainer import Task, relative_error

Form = Callable[[Any], Any]
"""A network in one of its forms: takes plain images, a tensor (N, C, H, W) or a list of (C, h, w),
float32 in [0, 1], and returns its answers; see :meth:`pas_trainer.Task.plain`."""

Error = Callable[[Any, Any], float]
"""How far answers are apart, see :meth:`pas_trainer.Task.error`."""

CHUNK = 64
"""Images per forward pass, so that memory does not grow with their number."""


class ParityError(ValueError):
    """Two forms of one network give different answers."""


def check_parity(
    training_network: nn.Module,
    deploy_network: nn.Module,
    images: Any,
    tolerance: float = 1e-4,
    *,
    error: Error = relative_error,
) -> float:
    """Compare the answers of two networks in eval mode; their training flags are restored.

    Args:
        training_network: the reference.
        deploy_network: what shall equal it.
        images: (N, C, H, W) or a list, N >= 1, as both networks take them.
        tolerance: largest error allowed.
        error: of answers; by default the largest absolute difference, relative to
            ``max(1, largest absolute value)``.

    Returns:
        The largest error, over parts of at most 64 images.

    Raises:
        ParityError: the error is above the tolerance or not a number, or the shapes differ.
        ValueError: there are no images.
    """
    if len(images) == 0:
        raise ValueError("parity cannot be checked without images")
    with inference(training_network, deploy_network):
        return max(
            compare_answers(training_network(part), deploy_network(part), tolerance, error)
            for part in parts_of(images, CHUNK)
        )


def compare_answers(
    expected: Any, found: Any, tolerance: float, error: Error = relative_error
) -> float:
    """Return the error of ``found``, as :func:`check_parity` defines it.

    Raises:
        ParityError: the error is above the tolerance or not a number, or the shapes differ.
    """
    if isinstance(expected, Tensor) and expected.shape != found.shape:
        raise ParityError(
            f"answers have shapes {tuple(expected.shape)} and {tuple(found.shape)}, expected equal"
        )
    size = error(expected, found)
    if not size <= tolerance:
        raise ParityError(
            f"the answers of the two forms differ by {size:.3g} (relative), more than {tolerance:g}"
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
