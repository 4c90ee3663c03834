"""What workers get to do: the jobs of a sweep's trials and controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from orchestrator.cells import (
    Cell,
    Control,
    TrialJob,
    control_config,
    from_loose_to_tight,
    front_config,
    trial_config,
)
from orchestrator.home import Home
from orchestrator.latency_table import kept_table
from orchestrator.node_resources import worker_threads
from orchestrator.preflight import Plan
from orchestrator.studies import Suggestion
from orchestrator.worker import left_records
from pas_trainer import AnnealedConfig, ControlConfig, TrialConfig


class SweepJobs:
    """Makes the jobs of one sweep.

    Args:
        plan: of the sweep.
        home: where its files go.
    """

    def __init__(self, plan: Plan, home: Home) -> None:
        self._plan, self._home = plan, home
        self._sweep_id = plan.config.sweep_id  # a hash: not once per trial

    def trial(self, suggestion: Suggestion) -> TrialJob:
        """Return the job of a trial; with annealed budgets, that of its whole front."""
        sweep, first, number = self._plan.config, suggestion.cell, suggestion.number
        chosen, table = suggestion.hyperparameters, self._latency_table()
        if sweep.budget.schedule == "separate":
            config = trial_config(sweep, first, number, chosen, table)
            return self._job(first.trial_id(number), first, number, config, chosen)
        budgets = from_loose_to_tight(sweep, self._plan.limits)
        cells = [Cell(budget, first.strength) for budget in budgets]
        front = front_config(sweep, cells, number, chosen, table)
        *looser, last = (
            self._job(cell.trial_id(number), cell, number, front.at(k), chosen)
            for k, cell in enumerate(cells)
        )
        return dataclasses.replace(last, config=front, looser=tuple(looser))

    def left_by_trials(self, known: Collection[str]) -> Iterator[Suggestion]:
        """Give what trials were, by what they left here, of those whose ids are not known."""
        config = self._plan.config
        (loosest, *_) = from_loose_to_tight(config, self._plan.limits)
        for record in left_records(self._home.sweep(self._sweep_id), known):
            if record.control is None:
                separate = config.budget.schedule == "separate"
                cell = Cell(record.budget if separate else loosest, record.strength)
                yield Suggestion(cell, record.number, record.hyperparameters)

    def control(self, control: Control) -> TrialJob:
        """Return the job of a control."""
        config = control_config(self._plan.config, control, self._latency_table())
        return self._job(control.trial_id, control.cell, 0, config, {})

    def _latency_table(self) -> Path | None:
        kept = kept_table(self._home.sweep(self._sweep_id))
        return kept if self._plan.latency_table else None

    def _job(
        self,
        trial_id: str,
        cell: Cell,
        number: int,
        config: TrialConfig | ControlConfig | AnnealedConfig,
        chosen: Mapping[str, float],
    ) -> TrialJob:
        sweep = self._plan.config
        return TrialJob(
            trial_id=trial_id,
            sweep_id=self._sweep_id,
            cell=cell,
            number=number,
            hyperparameters=dict(chosen),
            config=config,
            supernet_folder=self._home.supernet(self._plan.supernet_key),
            folder=self._home.trial(self._sweep_id, trial_id),
            num_threads=worker_threads(sweep.resources.per_worker["CPU"]),
            cpus=sweep.resources.cpus_per_trial,
            gpus=sweep.resources.gpus_per_trial,
            data_version=self._plan.data_version,
            storage=sweep.storage.uri,
        )
