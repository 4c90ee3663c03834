"""A small trial on digits, and its supernet."""

from __future__ import annotations

from pathlib import Path

from pas_trainer import (
    DataConfig,
    FinetuneConfig,
    OptimizerConfig,
    PretrainConfig,
    SearchConfig,
    SupernetResult,
    SupernetTraining,
    TrialConfig,
    train_supernet,
)
from search_space import Budget, SupernetConfig

DATA = DataConfig(name="digits", validation=0.25)
SUPERNET = SupernetConfig(name="repvgg_tiny", options={"width": 0.5})
RECIPE = OptimizerConfig(batch_size=64)
TRIAL = TrialConfig(
    data=DATA,
    supernet=SUPERNET,
    budget=Budget(limit=0.4),
    strength=10,
    optimizer=RECIPE,
    search=SearchConfig(epochs=3),
    finetune=FinetuneConfig(epochs=3, recalibration_batches=5),
    seed=7,
)


def train_digits_supernet(folder: Path, num_epochs: int = 6) -> SupernetResult:
    """Train the trial's supernet, or find it trained."""
    pretrain = PretrainConfig(epochs=num_epochs)
    training = SupernetTraining(data=DATA, supernet=SUPERNET, optimizer=RECIPE, pretrain=pretrain)
    return train_supernet(training, folder)
