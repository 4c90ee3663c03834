"""A task of one's own: how much is a handwritten digit worth? Lower error is better.

cd examples && pas sweep own_task.yaml
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from pas_trainer import (
    About,
    ClassificationData,
    DataConfig,
    Metric,
    Normalizer,
    OptimizerConfig,
    Prepare,
    Task,
    TaskData,
    load_data,
    open_sources,
)
from pas_trainer.data.sources import Sources

DIGITS = DataConfig(name="digits", validation=0.25)


class DigitValue(Task):
    """One number per image, from 0 to 9."""

    metric = Metric("mean_error", higher_is_better=False)

    def open_data(self, config: DataConfig) -> Sources:  # noqa: ARG002
        """Look through what there is; here that is part of a library."""
        return dataclasses.replace(open_sources(DIGITS), classes=())

    def load_data(self, config: DataConfig, device: torch.device) -> ClassificationData:  # noqa: ARG002
        """Return three splits, ready to be read in batches."""
        return dataclasses.replace(load_data(DIGITS, device), classes=())

    def num_outputs(self, about: About) -> int:  # noqa: ARG002
        """Return what the supernet's builder gets as the number of classes."""
        return 1

    def preparer(self, data: TaskData, device: torch.device) -> Prepare:
        """Return what makes inputs and targets of a batch."""
        normalize = Normalizer(data, device)
        return lambda batch: (normalize(batch[0]), batch[1].to(device).float())

    def loss(self, outputs: Any, targets: Any, recipe: OptimizerConfig) -> Tensor:  # noqa: ARG002
        """Return the loss of a batch."""
        return nn.functional.smooth_l1_loss(outputs[:, 0], targets)

    def judge(self, about: About, device: torch.device) -> MeanError:  # noqa: ARG002
        """Return what measures networks; the metric is one of its figures."""
        return MeanError()


class MeanError:
    """How far off the numbers are."""

    def __init__(self) -> None:
        self._sum, self._total = 0.0, 0

    def update(self, answers: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        self._sum += float((answers[:, 0] - targets).abs().sum())
        self._total += len(targets)

    def compute(self) -> dict[str, float]:
        """Return all figures by name."""
        return {"mean_error": self._sum / self._total}
