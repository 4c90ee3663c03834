"""Training compute in MACs: what a trial spends, and how long a control may train for as much.

A forward pass of one image costs the MACs of the network as it is executed, counted in deploy
form; a backward pass costs twice that. During the search the whole supernet runs, gates and all;
afterwards only the sliced network does. Evaluation counts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from pas_trainer.config import TrialConfig
from pas_trainer.workers import num_workers

STEP_PASSES = 3
"""Forward passes that a training step costs as much as: one forward, and backward twice that."""


def images_per_epoch(num_images: int, batch_size: int) -> int:
    """Return how many of ``num_images`` an epoch trains on: full batches, or one of them all."""
    size = min(batch_size, num_images)
    return num_images // size * size


def training_macs(macs: int, epoch_images: int, num_epochs: int) -> int:
    """Return the MACs of training a network of ``macs`` for ``num_epochs`` epochs."""
    return STEP_PASSES * macs * epoch_images * num_epochs


def epochs_within(compute: int, macs: int, epoch_images: int) -> int:
    """Return for how many whole epochs a network trains on ``compute`` MACs; at least 1."""
    return max(1, compute // training_macs(macs, epoch_images, 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialCompute:
    """What the trials of one sweep spend after the shared supernet's pre-training.

    Attributes:
        full_macs: MACs of the supernet, one image.
        epoch_images: images of one epoch, see :func:`images_per_epoch`.
        search_images: the same, of the search, whose batches may be smaller.
        recalibration_images: images that pass forward to recalibrate batch-norm.
        search_epochs, finetune_epochs: of the two phases.
    """

    full_macs: int
    epoch_images: int
    search_images: int
    recalibration_images: int
    search_epochs: int
    finetune_epochs: int

    @classmethod
    def of(cls, config: TrialConfig, full_macs: int, num_train: int) -> TrialCompute:
        """Return what a trial spends in a supernet of ``full_macs`` on ``num_train`` images."""
        batch_size = config.optimizer.batch_size
        images = images_per_epoch(num_train, batch_size)
        search = config.search.recipe(config.optimizer, num_train, num_workers())
        return cls(
            full_macs=full_macs,
            epoch_images=images,
            search_images=images_per_epoch(num_train, search.batch_size),
            recalibration_images=min(images, config.finetune.recalibration_batches * batch_size),
            search_epochs=config.search.epochs,
            finetune_epochs=config.finetune.epochs,
        )

    def search(self) -> int:
        """MACs of the search."""
        return training_macs(self.full_macs, self.search_images, self.search_epochs)

    def recalibration(self, macs: int) -> int:
        """MACs of recalibrating a sliced network of ``macs``."""
        return macs * self.recalibration_images

    def finetune(self, macs: int) -> int:
        """MACs of recalibrating and fine-tuning a sliced network of ``macs``."""
        training = training_macs(macs, self.epoch_images, self.finetune_epochs)
        return self.recalibration(macs) + training

    def trial(self, macs: int) -> int:
        """MACs of a whole trial that finds a network of ``macs``, without pre-training."""
        return self.search() + self.finetune(macs)
