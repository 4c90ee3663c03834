"""What early stopping saved, against counts by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from orchestrator.cells import Cell, trial_config
from orchestrator.loading import load_sweep
from orchestrator.records import TrialRecord
from orchestrator.savings import share_saved, spent_and_saved

DIGITS = Path(__file__).parents[2] / "examples" / "digits.yaml"


def test_what_a_stopped_trial_took_and_saved():
    config = trial_config(load_sweep(DIGITS), Cell(0.5, 1.0), 0, {})  # 10 + 20 epochs, batch 64
    progress = {"phase": "finetune", "epoch": 5, "num_epochs": 20, "macs_ratio": 0.5}
    spent, saved = spent_and_saved(config, progress, full_macs=1000, num_train=650)
    images = 640  # ten full batches
    assert saved == 3 * 500 * images * 15
    assert spent == 3 * 1000 * images * 10 + 500 * images + 3 * 500 * images * 5


def test_share_of_all_trials_that_was_saved():
    ended = TrialRecord(
        trial_id="a", sweep_id="s", status="FINISHED", budget=0.5, strength=1, number=0,
        training_macs=1100,
    )  # fmt: skip
    stopped = dataclasses.replace(ended, status="PRUNED", training_macs=600, saved_macs=500)
    control = dataclasses.replace(ended, control="uniform")
    failed = dataclasses.replace(ended, status="FAILED", training_macs=None)
    records = [ended, stopped, control, failed]
    assert share_saved(records, pretrain_macs=100) == pytest.approx(500 / (1000 + 500 + 500))
    assert share_saved([ended, control], 100) == 0
    assert share_saved([], 100) == 0
