"""What ``with`` blocks in code switch on and off, and torch.fx does not record."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

_AUTOCAST = ("cpu", "cuda")


def modes() -> tuple[bool, ...]:
    """Return what ``torch.no_grad()`` and ``torch.autocast`` change: gradients, then casts."""
    return torch.is_grad_enabled(), *map(torch.is_autocast_enabled, _AUTOCAST)


@contextlib.contextmanager
def all_modes(is_on: bool) -> Iterator[None]:
    """Compute gradients and cast automatically, or neither, so that a block makes a change."""
    before = modes()
    try:
        _set_modes([is_on] * len(before))
        yield
    finally:
        _set_modes(before)


def _set_modes(wanted: Sequence[bool]) -> None:
    torch.set_grad_enabled(wanted[0])
    for kind, is_on in zip(_AUTOCAST, wanted[1:], strict=True):
        torch.set_autocast_enabled(kind, is_on)
