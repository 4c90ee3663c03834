"""Cells of a sweep (budget x strength) and the trials in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config import SweepConfig
from pas_trainer import OptimizerConfig, TrialConfig, derive_seed


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One budget x one strength.

    Attributes:
        budget: limit as written in the sweep file, without its unit.
        strength: weight of the budget loss.
    """

    budget: float
    strength: float

    @property
    def name(self) -> str:
        """Short name that is safe in paths and study names."""
        return f"b{self.budget:g}-s{self.strength:g}"

    def trial_id(self, number: int) -> str:
        """Id of the trial with this index (from 0) in the cell."""
        return f"{self.name}-{number}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialJob:
    """What a worker needs to run one trial.

    Attributes:
        trial_id: unique in the sweep.
        sweep_id: the sweep it belongs to.
        cell, number: where it stands.
        hyperparameters: what Optuna chose.
        config: the trial itself.
        supernet_folder: trained supernet.
        folder: where checkpoint, package and result go.
        num_threads: torch threads.
    """

    trial_id: str
    sweep_id: str
    cell: Cell
    number: int
    hyperparameters: Mapping[str, float]
    config: TrialConfig
    supernet_folder: Path
    folder: Path
    num_threads: int


def cells_of(config: SweepConfig) -> list[Cell]:
    """Return the cells of a sweep, in the file's order, budgets outermost."""
    return [Cell(b, s) for b in config.budget.numbers for s in config.strengths]


def trial_config(
    config: SweepConfig,
    cell: Cell,
    number: int,
    hyperparameters: Mapping[str, float],
    latency_table: Path | None = None,
) -> TrialConfig:
    """Return the configuration of one trial: the file's, with the hyper-parameters put in."""
    chosen: dict[str, Any] = dict(hyperparameters)
    optimizer: OptimizerConfig = dataclasses.replace(config.optimizer, **chosen)
    return TrialConfig(
        data=config.data,
        supernet=config.supernet,
        budget=config.budget.budget(cell.budget),
        strength=cell.strength,
        width_rules=config.width_rules,
        optimizer=optimizer,
        search=config.search,
        finetune=config.finetune,
        latency_table=None if latency_table is None else str(latency_table),
        seed=derive_seed(config.seed, cell.budget, cell.strength, number),
        device=config.device,
    )
