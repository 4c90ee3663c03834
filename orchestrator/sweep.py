"""A sweep's bookkeeping: what runs next, what has ended, and who must be told. Knows no Ray.

The folder of a trial is the truth: ``result.json`` is written last, in one step. Optuna and
MLflow follow it, and :meth:`Sweep.catch_up` brings them level after a crash between the writes.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import Any, Protocol

from orchestrator.accounting import booked, priced
from orchestrator.cells import Cell, TrialJob, controls_of, studied_cells
from orchestrator.home import USAGE_FILE, Home
from orchestrator.jobs import SweepJobs
from orchestrator.pareto import mark_front
from orchestrator.preflight import Plan
from orchestrator.records import TrialRecord
from orchestrator.retention import Retention
from orchestrator.savings import share_saved, spent_and_saved
from orchestrator.slots import SlotMeter, keep_usage, kept_usage
from orchestrator.spool import Epoch, keep_epoch, kept_epochs
from orchestrator.studies import CellStudies
from orchestrator.sweep_files import HomeFiles
from orchestrator.tracking import SweepTracker
from orchestrator.worker import end_rest, failed, pruned, read_result, started, write_result
from pas_trainer import AnnealedConfig, ControlConfig, TrialConfig, read_supernet_result

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

    Args:
        plan: of the sweep.
        home: where state is.
        studies: its Optuna studies.
        tracker: of its runs.
        watcher: shows a person what happens.
        files: what workers leave; by default in the home folder.
        taken_over: set once another driver runs the sweep.

    Attributes:
        records: every trial handed out so far, by trial id.
        meter: how long trials hold their slots.
        stop_reason: set when the sweep must stop early, in one sentence.
    """

    def __init__(
        self,
        plan: Plan,
        home: Home,
        studies: CellStudies,
        tracker: SweepTracker,
        watcher: Watcher,
        *,
        files: HomeFiles | None = None,
        taken_over: threading.Event | None = None,
    ) -> None:
        files = files or HomeFiles(home, plan.config.sweep_id)
        self._plan, self._home, self._files = plan, home, files
        self._studies, self._tracker, self._watcher = studies, tracker, watcher
        self._make = SweepJobs(plan, home)
        self._taken_over = taken_over or threading.Event()
        self._retention = Retention(files, plan.config.storage.keep, plan.config.budget.resource)
        self._jobs: dict[str, TrialJob] = {}
        self._again: list[TrialJob] = []
        self._controls: list[TrialJob] = []
        self._progress: dict[str, dict[str, Any]] = {}
        self._resources = plan.config.resources
        self._usage_file = home.sweep(plan.config.sweep_id) / USAGE_FILE
        self.meter = SlotMeter(
            kept_usage(self._usage_file),
            self._resources.cpus_per_trial,
            self._resources.gpus_per_trial,
        )
        self.records: dict[str, TrialRecord] = {}
        self.stop_reason: str | None = None

    def catch_up(self) -> None:
        """Take over what earlier runs of this sweep left: tell what ended, queue what did not."""
        self._files.begin()
        self.supernet_trained()
        jobs = [self._make.trial(suggestion) for suggestion in self._studies.every()]
        if lost := list(self._make.left_by_trials({s.trial_id for job in jobs for s in job.steps})):
            self._studies.restore(lost)
            jobs = [self._make.trial(suggestion) for suggestion in self._studies.every()]
        self._again = self._take_over(jobs)
        controls = controls_of(self._plan.config, self._plan.limits)
        self._controls = self._take_over([self._make.control(control) for control in controls])
        self.tidy()
        self._redraw_front()

    def supernet_trained(self) -> None:
        """Take note of the supernet, if it has been trained."""
        self._files.pull_supernet(self._plan.supernet_key)

    def tidy(self) -> None:
        """Delete what trials that have ended leave behind, whoever was killed before."""
        self._retention.tidy()

    def _stop_if_taken_over(self) -> None:
        if self._taken_over.is_set():
            self.stop_reason = self.stop_reason or (
                "another driver has taken it over, since this one could not reach storage.uri for "
                "too long"
            )

    def _take_over(self, jobs: list[TrialJob]) -> list[TrialJob]:
        """Tell of the jobs that have ended and return the others."""
        for job in jobs:
            for step in job.steps:
                self._tell_kept_epochs(step)
            self._tell_ended(job)
        return [job for job in jobs if not self._has_ended(job)]

    def has_work(self) -> bool:
        """Whether any trial or control is still to be run."""
        return bool(self._again or self._controls) or self._studies.has_next()

    def next_job(self) -> TrialJob | None:
        """Return the next trial to run, controls last; ``None`` when no more are to be started."""
        self._stop_if_taken_over()
        if self.stop_reason is not None:
            return None
        if self._again:
            job = self._again.pop(0)
        elif (suggestion := self._studies.next()) is not None:
            job = self._make.trial(suggestion)
        elif self._controls:
            job = self._controls.pop(0)
        else:
            return None
        self._jobs[job.trial_id] = job
        return job

    def trial_started(self, trial_id: str) -> None:
        """A worker has taken the trial (again, if an earlier worker died)."""
        job = self._jobs[trial_id]
        self.meter.started(trial_id)
        left = [step for step in job.steps if not self._has_ended(step)]
        if left:  # else it has failed, and its worker will find that out
            self._step_started(left[0])

    def epoch_done(self, trial_id: str, progress: dict[str, Any]) -> None:
        """Pass on what a worker reported."""
        self._stop_if_taken_over()
        if "stop_sweep" in progress:
            self.stop_reason = self.stop_reason or progress["stop_sweep"]
            return
        job = self._jobs[trial_id]
        self.meter.reported(trial_id)
        step = job.steps[progress["step"]]
        self._progress[step.trial_id] = progress
        self._tell_steps(job, progress["step"])
        if step.trial_id not in self.records:
            self._step_started(step)
        before = _search_epochs(job, progress["step"]) if progress["phase"] == "finetune" else 0
        metrics = {
            "loss": progress["loss"],
            "epoch_accuracy": progress["accuracy"],
            "epoch_macs_ratio": progress["macs_ratio"],
            "phase": float(PHASES.index(progress["phase"])),
        }
        epoch = Epoch(before + progress["epoch"], time.time_ns() // 1_000_000, metrics)
        keep_epoch(step.folder, epoch)
        self._tracker.log_epoch(step.trial_id, metrics, epoch.step, epoch.time_ms)
        self._watcher.trial_progress(step.trial_id, progress)

    def _tell_steps(self, job: TrialJob, current: int) -> None:
        """Tell of the steps before the current one, whose networks are trained."""
        untold = [step for step in job.steps[:current] if not self._has_ended(step)]
        if untold:
            self._files.pull(untold, wait=False)  # else at the next report
            self._tell_ended(job)
            self._redraw_front()

    def trial_done(self, trial_id: str) -> None:
        """A worker has returned, or the scheduler has stopped it early."""
        self._stop_if_taken_over()
        job = self._jobs[trial_id]
        self._files.pull(job.steps)
        if self.stop_reason is None:
            self._files.push(end_rest(job, self._pruned))
        self._tell_ended(job)
        self.meter.ended(trial_id, lost=not self._has_ended(job))
        self._redraw_front()

    def trial_lost(self, trial_id: str, sentence: str) -> None:
        """A worker died too often: the trial has failed."""
        job = self._jobs[trial_id]
        self._files.pull(job.steps)
        ended = end_rest(job, lambda step: self._with_seconds(step, failed(step, sentence)))
        self._files.push(ended)
        self._files.flush()  # its worker is to find that out
        self._tell_ended(job)
        self._redraw_front()

    def account(self) -> dict[str, float]:
        """Keep what the sweep has used until now, tell the tracking store and return it.

        See :data:`orchestrator.accounting.TOTALS`.
        """
        usage = self.meter.usage()
        totals = usage.totals(self._resources.prices)
        if totals:
            totals["compute_saved"] = self.compute_saved()
            keep_usage(self._usage_file, usage)
            self._files.keep(self._usage_file.name)
            self._tracker.log_totals(totals)
        return totals

    def compute_saved(self) -> float:
        """Return the share of the trials' compute that early stopping saved, in [0, 1)."""
        return share_saved(self.records.values(), self._pretrain_macs())

    def given_up(self) -> list[Cell]:
        """Return the cells that get no more trials because too many failed in a row."""
        return self._studies.given_up()

    def ended_records(self) -> list[TrialRecord]:
        """Return every trial that has ended, with its place on the front."""
        return mark_front(self._ended(), self._plan.config.budget.resource)

    def _ended(self) -> list[TrialRecord]:
        return [record for record in self.records.values() if record.status != "RUNNING"]

    def _pruned(self, job: TrialJob) -> TrialRecord:
        progress = self._progress.get(job.trial_id)
        if progress is None or not isinstance(job.config, TrialConfig):
            return self._with_seconds(job, pruned(job))
        full, images = self._plan.graph.count_macs(), self._plan.num_train
        spent, saved = spent_and_saved(job.config, progress, full, images)
        record = pruned(job, training_macs=self._pretrain_macs() + spent, saved_macs=saved)
        return self._with_seconds(job, record)

    def _with_seconds(self, step: TrialJob, record: TrialRecord) -> TrialRecord:
        """Add the seconds until the last report, where the record does not tell."""
        seconds = self._progress.get(step.trial_id, {}).get("seconds")
        if record.cpu_seconds is not None or not seconds:
            return record
        return dataclasses.replace(record, **booked(seconds, step.cpus, step.gpus))

    def _pretrain_macs(self) -> int:
        trained = read_supernet_result(self._home.supernet(self._plan.supernet_key))
        return (trained.training_macs or 0) if trained else 0

    def _has_ended(self, job: TrialJob) -> bool:
        record = self.records.get(job.trial_id)
        return record is not None and record.status != "RUNNING"

    def _step_started(self, step: TrialJob) -> None:
        record = started(step)
        self.records[step.trial_id] = record
        self._tracker.trial_started(record)
        self._watcher.trial_started(record)

    def _tell_kept_epochs(self, step: TrialJob) -> None:
        """Tell of epochs that the tracking store may not have had from an earlier driver."""
        epochs = kept_epochs(step.folder)
        if epochs:
            self._tracker.trial_started(started(step))
        for epoch in epochs:
            self._tracker.log_epoch(step.trial_id, epoch.metrics, epoch.step, epoch.time_ms)

    def _tell_ended(self, job: TrialJob) -> None:
        """Tell of what has ended of a job since it was last asked."""
        for step in job.steps:
            record = None if self._has_ended(step) else read_result(step)
            if record is not None:
                timed = self._with_seconds(step, record)
                if timed is not record:
                    write_result(step, timed)
                    self._files.push([step])
                self._tell(step, priced(timed, self._resources.prices))
        if job.control is None and all(self._has_ended(step) for step in job.steps):
            ended = [self.records[step.trial_id] for step in job.steps]
            accuracies = [r.accuracy for r in ended if r.accuracy is not None]
            status = next((r.status for r in ended if r.status != "FINISHED"), "FINISHED")
            mean = sum(accuracies) / len(accuracies) if accuracies else None
            self._studies.tell(job.steps[0].cell, job.number, status, mean)

    def _tell(self, job: TrialJob, record: TrialRecord) -> None:
        self.records[job.trial_id] = record
        architecture = job.folder / "architecture.json"
        artifacts = {}
        if architecture.exists():
            artifacts["architecture.json"] = architecture.read_text()
        self._tracker.trial_finished(record, artifacts)
        self._watcher.trial_ended(record)
        self._retention.ended(record)

    def _redraw_front(self) -> None:
        resource = self._plan.config.budget.resource
        full, limits = self._plan.graph.count(resource), list(self._plan.limits.values())
        self._tracker.update_front(self._ended(), resource, full, limits)


def _search_epochs(job: TrialJob, step: int) -> int:
    config = job.config
    if isinstance(config, AnnealedConfig):
        config = config.at(step)
    return 0 if isinstance(config, ControlConfig) else config.search.epochs


def build_studies(plan: Plan, home: Home) -> CellStudies:
    """Open the studies of a sweep."""
    config = plan.config
    defaults = {name: getattr(config.optimizer, name) for name in config.hyperparameters}
    return CellStudies(
        home.optuna_url,
        config.sweep_id,
        studied_cells(config, plan.limits),
        ranges=config.hyperparameters,
        defaults=defaults,
        trials_per_cell=config.trials_per_cell,
        max_failures=config.max_failures_per_cell,
        seed=config.seed,
    )
