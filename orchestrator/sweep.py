"""A sweep's bookkeeping: what runs next, what has ended, and who must be told. Knows no Ray.

The folder of a trial is the truth: ``result.json`` is written last, in one step. Optuna and
MLflow follow it, and :meth:`Sweep.catch_up` brings them level after a crash between the writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from orchestrator.cells import (
    Cell,
    Control,
    TrialJob,
    cells_of,
    control_config,
    controls_of,
    trial_config,
)
from orchestrator.home import Home
from orchestrator.latency_table import kept_table
from orchestrator.pareto import mark_front
from orchestrator.preflight import Plan
from orchestrator.records import TrialRecord
from orchestrator.studies import CellStudies, Suggestion
from orchestrator.tracking import SweepTracker
from orchestrator.worker import failed, pruned, read_result, started, worker_threads, write_result
from pas_trainer import ControlConfig, TrialConfig

PHASES = ("search", "finetune", "control")


class Watcher(Protocol):
    """Shows a person what happens."""

    def trial_started(self, record: TrialRecord) -> None:
        """Call before a trial's first epoch."""

    def trial_progress(self, trial_id: str, progress: dict[str, Any]) -> None:
        """Call after each epoch."""

    def trial_ended(self, record: TrialRecord) -> None:
        """Call once a trial has ended."""


class Sweep:
    """One sweep while it runs.

    Attributes:
        records: every trial handed out so far, by trial id.
        stop_reason: set when the sweep must stop early, in one sentence.
    """

    def __init__(
        self,
        plan: Plan,
        home: Home,
        studies: CellStudies,
        tracker: SweepTracker,
        watcher: Watcher,
    ) -> None:
        self._plan, self._home = plan, home
        self._studies, self._tracker, self._watcher = studies, tracker, watcher
        self._jobs: dict[str, TrialJob] = {}
        self._again: list[TrialJob] = []
        self._controls: list[TrialJob] = []
        self.records: dict[str, TrialRecord] = {}
        self.stop_reason: str | None = None

    def catch_up(self) -> None:
        """Take over what earlier runs of this sweep left: tell what ended, queue what did not."""
        known = [self._trial_job(suggestion) for suggestion in self._studies.every()]
        self._again = self._take_over(known)
        controls = controls_of(self._plan.config, self._plan.limits)
        self._controls = self._take_over([self._control_job(control) for control in controls])
        self._redraw_front()

    def _take_over(self, jobs: list[TrialJob]) -> list[TrialJob]:
        """Tell of the jobs that have ended and return the others."""
        left = []
        for job in jobs:
            record = read_result(job)
            if record is None:
                left.append(job)
            else:
                self._tell(job, record)
        return left

    def has_work(self) -> bool:
        """Whether any trial or control is still to be run."""
        return bool(self._again or self._controls) or self._studies.has_next()

    def next_job(self) -> TrialJob | None:
        """Return the next trial to run, controls last; ``None`` when no more are to be started."""
        if self.stop_reason is not None:
            return None
        if self._again:
            job = self._again.pop(0)
        elif (suggestion := self._studies.next()) is not None:
            job = self._trial_job(suggestion)
        elif self._controls:
            job = self._controls.pop(0)
        else:
            return None
        self._jobs[job.trial_id] = job
        return job

    def trial_started(self, trial_id: str) -> None:
        """A worker has taken the trial (again, if an earlier worker died)."""
        record = started(self._jobs[trial_id])
        self.records[trial_id] = record
        self._tracker.trial_started(record)
        self._watcher.trial_started(record)

    def epoch_done(self, trial_id: str, progress: dict[str, Any]) -> None:
        """Pass on what a worker reported."""
        if "stop_sweep" in progress:
            self.stop_reason = self.stop_reason or progress["stop_sweep"]
            return
        config = self._plan.config
        before = config.search.epochs if progress["phase"] == "finetune" else 0
        metrics = {
            "loss": progress["loss"],
            "epoch_accuracy": progress["accuracy"],
            "epoch_macs_ratio": progress["macs_ratio"],
            "phase": float(PHASES.index(progress["phase"])),
        }
        self._tracker.log_epoch(trial_id, metrics, step=before + progress["epoch"])
        self._watcher.trial_progress(trial_id, progress)

    def trial_done(self, trial_id: str) -> None:
        """A worker has returned, or the scheduler has stopped it early."""
        job = self._jobs[trial_id]
        record = read_result(job)
        if record is None and self.stop_reason is None:
            record = pruned(job)
            write_result(job, record)
        if record is not None:
            self._ended(job, record)

    def trial_lost(self, trial_id: str, sentence: str) -> None:
        """A worker died too often: the trial has failed."""
        job = self._jobs[trial_id]
        record = read_result(job) or failed(job, sentence)
        write_result(job, record)
        self._ended(job, record)

    def ended_records(self) -> list[TrialRecord]:
        """Return every trial that has ended, with its place on the front."""
        ended = [r for r in self.records.values() if r.status != "RUNNING"]
        return mark_front(ended, self._plan.config.budget.resource)

    def _ended(self, job: TrialJob, record: TrialRecord) -> None:
        self._tell(job, record)
        self._redraw_front()

    def _tell(self, job: TrialJob, record: TrialRecord) -> None:
        self.records[job.trial_id] = record
        if job.control is None:
            self._studies.tell(job.cell, job.number, record.status, record.accuracy)
        architecture = job.folder / "architecture.json"
        artifacts = {}
        if architecture.exists():
            artifacts["architecture.json"] = architecture.read_text()
        self._tracker.trial_finished(record, artifacts)
        self._watcher.trial_ended(record)

    def _redraw_front(self) -> None:
        resource = self._plan.config.budget.resource
        full, limits = self._plan.graph.count(resource), list(self._plan.limits.values())
        self._tracker.update_front(self.ended_records(), resource, full, limits)

    def _trial_job(self, suggestion: Suggestion) -> TrialJob:
        cell, number, chosen = suggestion.cell, suggestion.number, suggestion.hyperparameters
        config = trial_config(self._plan.config, cell, number, chosen, self._latency_table())
        return self._job(cell.trial_id(number), cell, number, config, chosen)

    def _control_job(self, control: Control) -> TrialJob:
        config = control_config(self._plan.config, control, self._latency_table())
        return self._job(control.trial_id, control.cell, 0, config, {})

    def _latency_table(self) -> Path | None:
        kept = kept_table(self._home.sweep(self._plan.config.sweep_id))
        return kept if self._plan.latency_table else None

    def _job(
        self,
        trial_id: str,
        cell: Cell,
        number: int,
        config: TrialConfig | ControlConfig,
        chosen: Mapping[str, float],
    ) -> TrialJob:
        sweep = self._plan.config
        return TrialJob(
            trial_id=trial_id,
            sweep_id=sweep.sweep_id,
            cell=cell,
            number=number,
            hyperparameters=dict(chosen),
            config=config,
            supernet_folder=self._home.supernet(self._plan.supernet_key),
            folder=self._home.trial(sweep.sweep_id, trial_id),
            num_threads=worker_threads(sweep.resources.cpus_per_trial),
        )


def build_studies(plan: Plan, home: Home) -> CellStudies:
    """Open the studies of a sweep."""
    config = plan.config
    defaults = {name: getattr(config.optimizer, name) for name in config.hyperparameters}
    return CellStudies(
        home.optuna_url,
        config.sweep_id,
        cells_of(config),
        ranges=config.hyperparameters,
        defaults=defaults,
        trials_per_cell=config.trials_per_cell,
        seed=config.seed,
    )
