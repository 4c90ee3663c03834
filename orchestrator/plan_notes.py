"""What is set for a sweep and will do nothing, told with its plan."""

from __future__ import annotations

import os
from collections.abc import Iterator

from orchestrator.config import SweepConfig
from pas_trainer import Task


def plan_notes(config: SweepConfig, task: Task) -> list[dict[str, str]]:
    """Return each ``setting`` that a sweep does not go by, and the ``reason``."""
    return [{"setting": setting, "reason": reason} for setting, reason in _notes(config, task)]


def _notes(config: SweepConfig, task: Task) -> Iterator[tuple[str, str]]:
    for name in config.hyperparameters:
        if name in task.ignored_hyperparameters:
            yield f"hyperparameters.{name}", f"task {config.task.name} does not use it"
    grace, epochs = config.scheduler.grace_epochs, config.finetune.epochs
    if config.scheduler.name != "none" and grace >= epochs:
        yield (
            f"scheduler.name {config.scheduler.name}",
            f"stops no trial: grace_epochs is {grace}, finetune.epochs {epochs}",
        )
    named = os.environ.get("MLFLOW_TRACKING_URI")
    if named and named != config.tracking.uri:
        yield "MLFLOW_TRACKING_URI", "sweeps go by tracking.uri of the sweep file alone"
