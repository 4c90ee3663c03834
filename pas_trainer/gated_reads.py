"""Convolutions and linear layers that read open channels only, at the least cost.

Scaling the weights that read a channel and scaling the channel itself are the same function. The
cost of either is a pass over the tensor that is scaled, forward and backward, so the smaller one
is taken: weights in early layers with large images, activations in late ones with many channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from search_space import Axis


class gated_reads(TorchFunctionMode):  # noqa: N801 - used as a context manager
    """Inside, layers whose weight has a factor read their input's channels times that factor.

    Whatever else reads such a weight gets it scaled.

    Args:
        factors: gates (C,) by ``id`` of the weight (out, C, ...) they belong to.
    """

    def __init__(self, factors: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._factors = factors

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Scale what a layer reads, or its weight; leave everything else."""
        kwargs = kwargs or {}
        axis = -3 if func is F.conv2d else -1 if func is F.linear else None
        if axis is not None and len(args) > 1 and id(args[1]) in self._factors:
            x, weight, *rest = args
            factor = self._factors[id(weight)]
            if x.numel() < weight.numel():
                x = x * _along(factor.to(x.dtype), x.ndim, axis)
            else:
                weight = weight * _along(factor, weight.ndim, 1)
            return func(x, weight, *rest, **kwargs)
        given = [self._scaled(arg) for arg in args]
        return func(*given, **{key: self._scaled(value) for key, value in kwargs.items()})

    def _scaled(self, value: Any) -> Any:
        factor = self._factors.get(id(value))
        return value if factor is None else value * _along(factor, value.ndim, 1)


def _along(factor: Tensor, ndim: int, axis: int) -> Tensor:
    shape = [1] * ndim
    shape[axis] = -1
    return factor.view(shape)


def layer_weights(network: nn.Module, axes: Sequence[Axis]) -> frozenset[str]:
    """Return which of the parameters are weights of ordinary layers, read by them along axis 1.

    Not among them: weights with several names, or with several of these axes.
    """
    times_named = Counter(id(p) for _, p in network.named_parameters(remove_duplicate=False))
    times_read = Counter(axis.tensor for axis in axes)
    found = set()
    for axis in axes:
        path, _, leaf = axis.tensor.rpartition(".")
        layer = network.get_submodule(path)
        if (
            type(layer) in {nn.Conv2d, nn.Linear}
            and (leaf, axis.dim) == ("weight", 1)
            and getattr(layer, "groups", 1) == 1
            and times_read[axis.tensor] == 1
            and times_named[id(layer.weight)] == 1
        ):
            found.add(axis.tensor)
    return frozenset(found)
