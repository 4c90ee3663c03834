"""Image classification: cross-entropy, and the share of images classified correctly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pas_trainer.data import DATASETS, ClassificationData, DataConfig, load_data, open_sources
from pas_trainer.data.batches import Batch
from pas_trainer.data.sources import Sources
from pas_trainer.optim import OptimizerConfig
from pas_trainer.tasks.about import About, TaskData
from pas_trainer.tasks.metric import ACCURACY
from pas_trainer.tasks.normalizer import Normalizer
from pas_trainer.tasks.task import Prepare, Task, check_images_pass
from pas_trainer.workers import sum_over_workers


class Classification(Task):
    """One logit per class."""

    metric = ACCURACY
    datasets = DATASETS["classification"]
    has_fixed_shapes = True
    shares_batches = True
    eval_batch = 512
    answers = "logits"

    def open_data(self, config: DataConfig) -> Sources:
        """See :func:`pas_trainer.open_sources`."""
        return open_sources(config)

    def load_data(self, config: DataConfig, device: torch.device) -> ClassificationData:
        """See :func:`pas_trainer.load_data`."""
        return load_data(config, device)

    def preparer(self, data: TaskData, device: torch.device) -> Prepare:
        """Return what gives normalised images float32 (N, C, H, W) and labels (N,)."""
        normalize = Normalizer(data, device)

        def prepare(batch: Batch) -> tuple[Tensor, Tensor]:
            images, labels = batch
            return normalize(images), labels.to(device, non_blocking=True)

        return prepare

    def loss(self, outputs: Any, targets: Tensor, recipe: OptimizerConfig) -> Tensor:
        """Return the cross-entropy with smoothed labels."""
        return F.cross_entropy(logits_of(outputs), targets, label_smoothing=recipe.label_smoothing)

    def judge(self, about: About, device: torch.device) -> Accuracy:  # noqa: ARG002
        """Return what counts the images that are classified correctly."""
        return Accuracy(device)

    def check_network(self, network: nn.Module, about: About) -> None:
        """Check that a batch of images gives one logit per class."""
        logits, num_classes = logits_of(check_images_pass(network, about)), len(about.classes)
        if tuple(logits.shape) != (2, num_classes):
            raise ValueError(
                f"{type(network).__name__} returns shape {tuple(logits.shape)} for 2 images; it "
                f"must return one logit for each of the {num_classes} classes"
            )


class Accuracy:
    """The share of images that are classified correctly, by all workers together.

    Args:
        device: where logits and labels are; nothing is waited for before the end.
    """

    def __init__(self, device: torch.device) -> None:
        self._correct = torch.zeros((), dtype=torch.long, device=device)
        self._total = 0

    def update(self, answers: Any, targets: Tensor) -> None:
        """Add logits (N, classes), or what has them, and labels (N,)."""
        self._correct += (logits_of(answers).argmax(dim=1) == targets).sum()
        self._total += len(targets)

    def compute(self) -> dict[str, float]:
        """Return ``accuracy``, in [0, 1]."""
        counted = torch.stack([self._correct, torch.full_like(self._correct, self._total)])
        correct, total = sum_over_workers(counted).tolist()
        return {"accuracy": correct / total}


def logits_of(output: Any) -> Tensor:
    """Return the logits (N, classes) of what a network returned.

    Some networks of torchvision return a named tuple in training mode: logits and what auxiliary
    heads say, which is not used.

    Raises:
        ValueError: there are no logits in it.
    """
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise ValueError(  # noqa: TRY004
            f"the network returns an object of type {type(output).__name__}; it must return logits"
        )
    return logits
