"""Activation checkpointing, left out where layers are changed for the time of a forward pass.

``torch.utils.checkpoint`` runs a part of the network again during the backward pass. By then gates
no longer scale what layers read, so that it would compute, or take the gradient of, another
function.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch.utils import checkpoint

_IMPLEMENTATION = "_checkpoint_impl"
"""What ``checkpoint`` calls, however it was imported; older versions of torch have no such name."""


@contextlib.contextmanager
def without_recomputation() -> Iterator[None]:
    """Inside, checkpointed parts of a network are called as any other: memory is not saved."""
    before = getattr(checkpoint, _IMPLEMENTATION, None)
    if before is None:
        yield
        return
    setattr(checkpoint, _IMPLEMENTATION, _call)
    try:
        yield
    finally:
        setattr(checkpoint, _IMPLEMENTATION, before)


def _call(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], **_: Any
) -> Any:
    return function(*args, **kwargs)
