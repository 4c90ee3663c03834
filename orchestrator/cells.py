"""Cells of a sweep (budget x strength), the trials in them, and the controls beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config import SweepConfig
from pas_trainer import (
    AnnealedConfig,
    ControlConfig,
    ControlKind,
    DataConfig,
    OptimizerConfig,
    TrialConfig,
    derive_seed,
)


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


CONTROL_PREFIX = "control-"
"""Ids of controls begin with it, those of trials never do."""


@dataclass(frozen=True, slots=True)
class Control:
    """One control network of a sweep.

    Attributes:
        kind: see :mod:`pas_trainer.controls`.
        budget: limit whose trials it is compared with, as :attr:`Cell.budget`. The supernet meets
            none; it gets the compute of the trials at the loosest.
    """

    kind: ControlKind
    budget: float

    @property
    def trial_id(self) -> str:
        """Its id among the trials of the sweep."""
        budget = "" if self.kind == "supernet" else f"-b{self.budget:g}"
        return f"{CONTROL_PREFIX}{self.kind}{budget}"

    @property
    def cell(self) -> Cell:
        """Its place among the cells: no budget loss, so strength 0."""
        return Cell(self.budget, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialJob:
    """What a worker needs to run one trial or control.

    Attributes:
        trial_id: unique in the sweep.
        sweep_id: the sweep it belongs to.
        cell, number: where it stands.
        hyperparameters: what Optuna chose.
        config: the trial or control itself; the whole front if there are ``looser`` jobs.
        supernet_folder: trained supernet.
        folder: where checkpoint, package and result go.
        num_threads: torch threads.
        cpus, gpus: what it books, for all of its workers together.
        data_version: content of images that are staged on the worker's node; else empty.
        storage: address of the object store that files are brought from and to, if nodes do not
            share the home folder; then the folders above are those of the driver.
        looser: with annealed budgets, the networks found on the way to this one, loosest first;
            this job trains them all, and each has its record and folder.
    """

    trial_id: str
    sweep_id: str
    cell: Cell
    number: int
    hyperparameters: Mapping[str, float]
    config: TrialConfig | ControlConfig | AnnealedConfig
    supernet_folder: Path
    folder: Path
    num_threads: int
    cpus: float = 1
    gpus: float = 0
    data_version: str = ""
    storage: str | None = None
    looser: tuple[TrialJob, ...] = ()

    @property
    def steps(self) -> tuple[TrialJob, ...]:
        """What ends with a record of its own, in this order: usually the job alone."""
        return (*self.looser, self)

    @property
    def trial(self) -> TrialConfig:
        """The trial that the configuration holds: itself, a control's, or the first of a front."""
        return self.config if isinstance(self.config, TrialConfig) else self.config.trial

    def with_trial(self, trial: TrialConfig) -> TrialJob:
        """Return the job with another :attr:`trial`."""
        if isinstance(self.config, TrialConfig):
            return dataclasses.replace(self, config=trial)
        return dataclasses.replace(self, config=dataclasses.replace(self.config, trial=trial))

    @property
    def data(self) -> DataConfig:
        """The images it trains on."""
        return self.trial.data

    @property
    def control(self) -> ControlKind | None:
        """Which control it is, if it is one."""
        return self.config.kind if isinstance(self.config, ControlConfig) else None


Report = Callable[[dict[str, Any]], None]
"""Called with :data:`orchestrator.worker.PROGRESS_KEYS` after each epoch."""

Train = Callable[[TrialJob, Report], None]
"""Trains what a job asks for and writes its results; see :func:`orchestrator.worker.train_job`."""


def cells_of(config: SweepConfig) -> list[Cell]:
    """Return the cells of a sweep, in the file's order, budgets outermost."""
    return [Cell(b, s) for b in config.budget.numbers for s in config.strengths]


def studied_cells(config: SweepConfig, limits: Mapping[float, float]) -> list[Cell]:
    """Return the cells whose trials are started: with annealed budgets, those at the loosest."""
    if config.budget.schedule == "separate":
        return cells_of(config)
    loosest = from_loose_to_tight(config, limits)[0]
    return [Cell(loosest, strength) for strength in config.strengths]


def from_loose_to_tight(config: SweepConfig, limits: Mapping[float, float]) -> list[float]:
    """Return the budgets in falling order of their absolute limits.

    Args:
        config: the sweep.
        limits: the absolute limit of each budget; of those that are missing (latencies that have
            not been measured) the numbers of the file are compared.
    """
    numbers = config.budget.numbers
    return sorted(numbers, key=lambda number: limits.get(number, number), reverse=True)


def controls_of(config: SweepConfig, limits: Mapping[float, float]) -> list[Control]:
    """Return the controls of a sweep, in the file's order.

    Args:
        config: the sweep.
        limits: see :func:`from_loose_to_tight`.
    """
    numbers = config.budget.numbers
    loosest = from_loose_to_tight(config, limits)[0]
    return [
        Control(kind, budget)
        for kind in config.controls
        for budget in ([loosest] if kind == "supernet" else numbers)
    ]


def control_config(
    config: SweepConfig, control: Control, latency_table: Path | None = None
) -> ControlConfig:
    """Return the configuration of one control: the file's recipe and a seed of its own."""
    trial = trial_config(config, control.cell, 0, {}, latency_table)
    seed = derive_seed(config.seed, control.trial_id)
    return ControlConfig(kind=control.kind, trial=dataclasses.replace(trial, seed=seed))


def front_config(
    config: SweepConfig,
    cells: Sequence[Cell],
    number: int,
    hyperparameters: Mapping[str, float],
    latency_table: Path | None = None,
) -> AnnealedConfig:
    """Return the configuration of one search through the budgets of cells, loosest first."""
    trial = trial_config(config, cells[0], number, hyperparameters, latency_table)
    further = tuple(config.budget.budget(cell.budget) for cell in cells[1:])
    return AnnealedConfig(trial=trial, further=further)


def default_of(config: SweepConfig, name: str) -> float:
    """Return a hyper-parameter as the file has it: that of the first trial of each cell."""
    if name == "toward_uniform":  # the others are the optimizer's
        return config.search.share_toward_uniform(in_front=config.budget.schedule == "annealed")
    value: float = getattr(config.optimizer, name)
    return value


def trial_config(
    config: SweepConfig,
    cell: Cell,
    number: int,
    hyperparameters: Mapping[str, float],
    latency_table: Path | None = None,
) -> TrialConfig:
    """Return the configuration of one trial: the file's, with the hyper-parameters put in."""
    chosen: dict[str, Any] = dict(hyperparameters)
    toward_uniform = chosen.pop("toward_uniform", config.search.toward_uniform)
    optimizer: OptimizerConfig = dataclasses.replace(config.optimizer, **chosen)
    return TrialConfig(
        data=config.data,
        supernet=config.supernet,
        budget=config.budget.budget(cell.budget),
        strength=cell.strength,
        width_rules=config.width_rules,
        optimizer=optimizer,
        search=dataclasses.replace(config.search, toward_uniform=toward_uniform),
        finetune=config.finetune,
        latency_table=None if latency_table is None else str(latency_table),
        seed=derive_seed(config.seed, cell.budget, cell.strength, number),
        device=config.device,
        task=config.task,
    )
