"""Layer and group norms that take their statistics of open channels only.

A norm over channels mixes them, so removing one changes what the others become. The gated network
must agree: the mean and the variance are sums over the channels weighted by their gates, which is
differentiable in the gates. The norms are recognised by their weight, inside modules and
functions alike, so that a network's own norm layers work as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class masked_norms(TorchFunctionMode):  # noqa: N801 - used as a context manager
    """Inside, norms whose weight has a mask leave closed channels out of their statistics.

    Args:
        masks: gates (C,) by ``id`` of the norm's weight.
    """

    def __init__(self, masks: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._masks = masks

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Replace the two functions, leave all others."""
        kwargs = kwargs or {}
        if func is F.layer_norm or func is F.group_norm:
            given = _named(func, args, kwargs)
            mask = self._masks.get(id(given.get("weight")))
            if mask is not None:
                masked = masked_layer_norm if func is F.layer_norm else masked_group_norm
                return masked(mask=mask, **given)
        return func(*args, **kwargs)


def masked_layer_norm(
    input: Tensor,
    normalized_shape: Any,  # noqa: ARG001 - torch's signature
    weight: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    mask: Tensor,
) -> Tensor:
    """Layer norm over the last dimension, statistics over the channels that ``mask`` weighs.

    Args:
        input: (..., C).
        normalized_shape: (C,), as in :func:`torch.nn.functional.layer_norm`.
        weight, bias: (C,).
        eps: added to the variance.
        mask: (C,) of 0 and 1.
    """
    mask = mask.to(input.dtype)
    count = mask.sum()
    mean = (input * mask).sum(-1, keepdim=True) / count
    centred = input - mean
    variance = (centred.square() * mask).sum(-1, keepdim=True) / count
    normed = centred * (variance + eps).rsqrt() * weight
    return normed if bias is None else normed + bias


def masked_group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    mask: Tensor,
) -> Tensor:
    """Group norm of (N, C, ...), statistics over the channels that ``mask`` (C,) weighs."""
    per_group = input.shape[1] // num_groups
    grouped = input.reshape(input.shape[0], num_groups, per_group, -1)
    weights = mask.to(input.dtype).view(1, num_groups, per_group, 1)
    count = weights.sum(2, keepdim=True) * grouped.shape[-1]
    mean = (grouped * weights).sum((2, 3), keepdim=True) / count
    centred = grouped - mean
    variance = (centred.square() * weights).sum((2, 3), keepdim=True) / count
    normed = (centred * (variance + eps).rsqrt()).reshape(input.shape)
    shape = (1, -1) + (1,) * (input.ndim - 2)
    normed = normed * weight.view(shape)
    return normed if bias is None else normed + bias.view(shape)


_NAMES = {
    F.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
    F.group_norm: ("input", "num_groups", "weight", "bias", "eps"),
}


def _named(func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**dict(zip(_NAMES[func], args, strict=False)), **kwargs}
