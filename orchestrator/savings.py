"""What early stopping saves, in MACs of training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.records import TrialRecord
from pas_trainer import TrialCompute, TrialConfig, training_macs


def spent_and_saved(
    config: TrialConfig, progress: Mapping[str, Any], full_macs: int, num_train: int
) -> tuple[int, int]:
    """Return what a trial took until it was stopped in fine-tuning, and what it would have taken.

    Args:
        config: the trial's.
        progress: its last report, see :data:`orchestrator.worker.PROGRESS_KEYS`.
        full_macs: MACs of the supernet.
        num_train: training images.

    Returns:
        MACs of training as in :mod:`pas_trainer.compute`, the supernet's left out.
    """
    compute = TrialCompute.of(config, full_macs, num_train)
    macs = round(progress["macs_ratio"] * full_macs)
    saved = training_macs(macs, compute.epoch_images, progress["num_epochs"] - progress["epoch"])
    return compute.trial(macs) - saved, saved


def share_saved(records: Iterable[TrialRecord], pretrain_macs: int) -> float:
    """Return the share of all trials' own compute that early stopping saved, in [0, 1).

    Args:
        records: ended trials; what failed, and controls, do not count.
        pretrain_macs: what the supernet's training took, which each trial's count includes.
    """
    spent = saved = 0
    for record in records:
        if record.control is None and record.training_macs is not None:
            spent += record.training_macs - pretrain_macs
            saved += record.saved_macs or 0
    return saved / (spent + saved) if saved else 0.0
