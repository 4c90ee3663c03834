"""Networks in eval mode for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def inference(*networks: nn.Module) -> Iterator[None]:
    """Eval mode and no autograd inside; every submodule's training flag is restored after."""
    flags = [(module, module.training) for network in networks for module in network.modules()]
    try:
        for network in networks:
            network.eval()
        with torch.inference_mode():
            yield
    finally:
        for module, training in flags:
            module.training = training
