"""What the gradient of an open gate leaves out: how the loss bends on the way to a closed one.

A gate is 0 or 1, and what counts is the difference that closing it makes. To second order in an
open gate ``g`` that is not the gradient, which the straight-through estimator passes on, but

    L(1) - L(0) = dL/dg - 1/2 d2L/dg2

Without the second term a layer before batch-norm is not protected at all: scaling all of its open
channels alike changes nothing, so the gradients of its open gates add up to zero, however few are
left.

The curvature is taken to be the Fisher information of the gate (as pruning by Fisher information
does: Theis et al., *Faster gaze prediction with dense networks and Fisher pruning*, 2018, section
2.1): the mean square of the gradient over single images. The gradient of a batch is a mean
over its images, so its variance from batch to batch is that divided by their number. It is averaged
over the last steps, at no cost beyond the gradients that are there.

Closed gates keep their gradient as it is. What lies behind one has grown used to its absence, so
that the loss looks steeply curved from there, and by ``dL/dg + 1/2 d2L/dg2`` hardly a channel would
ever open again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

DECAY = 0.95
"""Of the running averages, per step."""


class GateCurvature(nn.Module):
    """Running estimate of the curvature of the loss in each of ``size`` gates.

    Its state is in buffers, so that checkpoints have it.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.zeros(size))
        self.square = nn.Buffer(torch.zeros(size))
        self.weight = nn.Buffer(torch.zeros(()))

    @torch.no_grad()
    def update(self, gradients: Tensor, num_images: int) -> Tensor:
        """Take in the gradients of a batch and return the curvatures.

        Args:
            gradients: of the mean loss over the batch in the gates, (size,).
            num_images: of the batch.

        Returns:
            Non-negative, (size,); 0 after the first batch, which has no variance.
        """
        self.mean.lerp_(gradients, 1 - DECAY)
        self.square.lerp_(gradients.square(), 1 - DECAY)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - DECAY)
        variance = self.square / self.weight - (self.mean / self.weight).square()
        return num_images * variance.clamp_min(0)

    @torch.no_grad()
    def correct(
        self, scores: Sequence[nn.Parameter], is_open: Tensor, num_images: int, share: float
    ) -> None:
        """Add the curvature to the gradients of open gates, in place.

        Args:
            scores: of the gates, one tensor per group, with the gradients of a batch's mean loss.
            is_open: bool, (size,), in the same order.
            num_images: of the batch.
            share: of the curvature that is taken into account.
        """
        gradients = [torch.zeros_like(s) if s.grad is None else s.grad for s in scores]
        curvature = self.update(torch.cat(gradients), num_images)
        half = -share / 2 * curvature * is_open
        changes = torch.split(half, [len(s) for s in scores])
        for parameter, change in zip(scores, changes, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(change)
