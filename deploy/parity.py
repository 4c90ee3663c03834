"""Proof that two forms of one network compute the same logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deploy.eval_mode import inference

_CHUNK = 64
"""Images per forward pass, so that memory does not grow with their number."""


class ParityError(ValueError):
    """Two forms of one network give different logits."""


def check_parity(
    training_network: nn.Module,
    deploy_network: nn.Module,
    images: Tensor,
    tolerance: float = 1e-4,
) -> float:
    """Compare the logits of two networks in eval mode; their training flags are restored.

    Args:
        training_network: the reference, takes (N, C, H, W).
        deploy_network: what shall equal it.
        images: (N, C, H, W), N >= 1, as both networks take them.
        tolerance: largest error allowed.

    Returns:
        Largest absolute difference of the logits, relative to ``max(1, largest absolute logit)``.

    Raises:
        ParityError: the error is above the tolerance or not a number, or the shapes differ.
        ValueError: there are no images.
    """
    if len(images) == 0:
        raise ValueError("parity cannot be checked without images")
    with inference(training_network, deploy_network):
        expected = _logits(training_network, images)
        found = _logits(deploy_network, images)
    return compare_logits(expected, found, tolerance)


def compare_logits(expected: Tensor, found: Tensor, tolerance: float) -> float:
    """Return the error of ``found``, as :func:`check_parity` defines it.

    Args:
        expected: logits (N, number of classes).
        found: the same shape.
        tolerance: largest error allowed.

    Raises:
        ParityError: the error is above the tolerance or not a number, or the shapes differ.
    """
    if expected.shape != found.shape:
        raise ParityError(
            f"logits have shapes {tuple(expected.shape)} and {tuple(found.shape)}, expected equal"
        )
    error = logit_error(expected, found)
    if not error <= tolerance:
        raise ParityError(
            f"the logits of the two forms differ by {error:.3g} (relative), more than {tolerance:g}"
        )
    return error


def logit_error(expected: Tensor, found: Tensor) -> float:
    """Return the error of ``found``, as :func:`check_parity` defines it; NaN if any logit is."""
    scale = max(1.0, float(expected.abs().max()))
    return float((expected.double() - found.double()).abs().max()) / scale


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([network(chunk) for chunk in torch.split(images, _CHUNK)])
