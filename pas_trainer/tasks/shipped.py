"""What leaves training: networks that take plain images, and judges of their answers."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from search_space import Architecture


class Judge(Protocol):
    """Gathers a network's answers and what they should be, and says how good they were."""

    def update(self, answers: Any, targets: Any) -> None:
        """Add a batch."""
        ...

    def compute(self) -> dict[str, float]:
        """Return the figures of all batches by name."""
        ...


class PlainNetwork(nn.Module):
    """A network with its normalisation inside.

    Takes images (N, C, H, W), float32 in [0, 1]; returns what the network does.

    Args:
        network: takes normalised images.
        architecture: gives the per-channel mean and standard deviation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, architecture: Architecture) -> None:
        super().__init__()
        for name, values in (("mean", architecture.mean), ("std", architecture.std)):
            per_channel = torch.tensor(list(values), dtype=torch.float32).reshape(1, -1, 1, 1)
            self.register_buffer(name, per_channel)
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's outputs."""
        outputs: Tensor = self.network((images - self.mean) / self.std)
        return outputs


class PlainGenerator(PlainNetwork):
    """A generator from images in [0, 1] to images in [0, 1], (N, C, H, W) both."""

    def forward(self, images: Tensor) -> Tensor:
        """Return translated images."""
        return (super().forward(images) * self.std + self.mean).clamp(0, 1)
