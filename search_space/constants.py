"""Constant tensors of a formula, with a copy on every device where it is evaluated."""

from __future__ import annotations

import torch
from torch import Tensor


class Constant:
    """A tensor that never changes.

    Its copies stay where they are for good: a step that was recorded as a CUDA graph goes on
    reading them.

    Args:
        value: the tensor.
    """

    def __init__(self, value: Tensor) -> None:
        self._copies = {value.device: value}

    def on(self, device: torch.device) -> Tensor:
        """Return it on a device."""
        if device not in self._copies:
            with torch.inference_mode(False):  # it may be used in training afterwards
                self._copies[device] = next(iter(self._copies.values())).to(device)
        return self._copies[device]
