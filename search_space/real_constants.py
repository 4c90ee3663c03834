"""Numbers that code makes while it is recorded, kept real so that they can be compared.

Code may write a width into a tensor: ``torch.tensor(x.shape[1])``, ``torch.ones(c).sum()``. Such
small tensors are computed; what depends on images, weights or chance stays fake.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from search_space.fakes import leaves

_MOST_NUMBERS = 2**18


class RealConstants(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside a mode of fake tensors: operations on nothing but real numbers stay real."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation, on real numbers where it is given no others."""
        kwargs = kwargs or {}
        given = leaves((args, kwargs))
        if any(isinstance(tensor, FakeTensor) for tensor in given) or _is_arbitrary(func):
            return func(*args, **kwargs)
        try:
            fake = func(*args, **kwargs)
        except RuntimeError:  # it asks for a number, which real tensors have
            if not given:
                raise
            fake = None
        if sum(tensor.numel() for tensor in leaves(fake)) > _MOST_NUMBERS:
            return fake
        with unset_fake_temporarily():
            return func(*args, **kwargs)


def _is_arbitrary(func: Callable[..., Any]) -> bool:
    """Whether what an operation makes is left to chance."""
    tags = getattr(func, "tags", ())
    return torch.Tag.nondeterministic_seeded in tags or "empty" in str(func)


def real_number(value: Any) -> Tensor | None:
    """Return a tensor if its numbers are known."""
    return value if isinstance(value, Tensor) and not isinstance(value, FakeTensor) else None
