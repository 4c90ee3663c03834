"""Convolutions of single pixels with a stride, computed without a fault of oneDNN.

oneDNN 3.13 (PyTorch 2.15, CPUs with AVX2), channels last, writes beyond its memory in the weight
gradient of a 1x1 convolution with a stride that reads fewer than 8 channels: the process crashes,
or goes on with damaged numbers. Pruned shortcuts and RepVGG's 1x1 branches are such layers. They
read every ``stride``-th pixel and no other, so the same layer without a stride is applied to those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_FEW_CHANNELS = 16
"""One vector of the widest CPUs, on which the fault was not looked for."""


class subsampled_reads(TorchFunctionMode):  # noqa: N801 - used as a context manager
    """Inside, 1x1 convolutions with a stride and few input channels read subsampled images."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Compute such convolutions in the other way, everything else as it is."""
        kwargs = kwargs or {}
        return (_conv2d if func is F.conv2d else func)(*args, **kwargs)


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: str | int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor:
    rows, columns = (stride, stride) if isinstance(stride, int) else (*stride, *stride)[:2]
    is_affected = (
        tuple(weight.shape[2:]) == (1, 1)
        and weight.shape[1] < _FEW_CHANNELS
        and max(rows, columns) > 1
        and padding in (0, (0, 0), "valid", "same")
    )
    if is_affected:
        input, stride = input[..., ::rows, ::columns], 1
    return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
