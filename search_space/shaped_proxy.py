"""What stands for a tensor while a network is recorded, and knows its shape."""

from __future__ import annotations

import builtins
import contextlib
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx.proxy import Proxy


class ValueNeededError(RuntimeError):
    """Code asks for the value of a tensor."""


class ShapedProxy(Proxy):
    """A proxy that answers questions about shape and type at once."""

    _is_param = _is_buffer = False

    @property
    def _now(self) -> Any:
        return self.node.meta["value"]

    @property
    def shape(self) -> Any:
        return self._now.shape

    @property
    def ndim(self) -> int:
        return int(self._now.ndim)

    @property
    def dtype(self) -> torch.dtype:
        return self._now.dtype  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        return self._now.device  # type: ignore[no-any-return]

    @property
    def is_cuda(self) -> bool:
        return bool(self._now.is_cuda)

    @property
    def requires_grad(self) -> bool:
        return False

    def size(self, *args: Any, **kwargs: Any) -> Any:
        return self._now.size(*args, **kwargs)

    def dim(self) -> int:
        return int(self._now.dim())

    def numel(self) -> int:
        return int(self._now.numel())

    def get_device(self) -> int:
        return int(self._now.get_device())

    def is_floating_point(self) -> bool:
        return bool(self._now.is_floating_point())

    def is_contiguous(self, *args: Any, **kwargs: Any) -> bool:
        return bool(self._now.is_contiguous(*args, **kwargs))

    def keys(self) -> Any:
        return list(self._now.keys())

    def values(self) -> Any:
        return [operator.getitem(self, key) for key in self.keys()]

    def items(self) -> Any:
        return [(key, operator.getitem(self, key)) for key in self.keys()]

    def __float__(self) -> float:
        return float(self.plain())

    def __int__(self) -> int:
        return int(self.plain())

    def __setitem__(self, key: object, value: object) -> None:
        raise RuntimeError(
            "it assigns to a part of a tensor (x[...] = y), which cannot be followed; "
            "use torch.cat, torch.where or F.pad instead"
        )

    def plain(self) -> Any:
        """Return the value, if it is no tensor."""
        if isinstance(self._now, Tensor):
            raise ValueNeededError
        return self._now

    def __len__(self) -> int:
        return len(self._now)

    def __contains__(self, key: object) -> bool:
        return key in self._now


def stands_for_tensor(thing: object) -> bool:
    """Whether it is a proxy whose value is a tensor."""
    return type(thing) is ShapedProxy and isinstance(thing._now, Tensor)


@contextlib.contextmanager
def passing_for_tensors(is_tensor: Callable[[object], bool]) -> Iterator[None]:
    """Have ``isinstance(x, torch.Tensor)`` and ``torch.is_tensor(x)`` say what they say of tensors.

    A ``__class__`` of their own would not do: torch's code in C would take proxies for tensors.

    Args:
        is_tensor: whether a thing that is none stands for one.
    """
    before = builtins.isinstance

    def is_instance(thing: object, kind: Any) -> bool:
        if before(thing, kind):
            return True
        asked = kind is Tensor or (type(kind) is tuple and Tensor in kind)
        return asked and is_tensor(thing)

    builtins.isinstance = is_instance
    try:
        yield
    finally:
        builtins.isinstance = before
