"""From pixels to what networks read."""

from __future__ import annotations

import torch
from torch import Tensor

from pas_trainer.tasks.about import TaskData


class Normalizer:
    """Turns uint8 image batches into what a network reads, on its device, channels last."""

    def __init__(self, data: TaskData, device: torch.device) -> None:
        self._device = device
        mean, std = (torch.tensor(v, device=device).view(-1, 1, 1) for v in (data.mean, data.std))
        self._scale, self._shift = 1 / (255 * std), -mean / std

    def __call__(self, images: Tensor) -> Tensor:
        """Return normalised images float32 (N, C, H, W) on the device, from uint8."""
        pixels = images.to(self._device, non_blocking=True)
        scaled = torch.addcmul(self._shift, pixels.float(), self._scale)
        return scaled.contiguous(memory_format=torch.channels_last)
