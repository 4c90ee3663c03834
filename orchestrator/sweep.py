"""A sweep while it runs: what is to be done next, and what has become of it. Knows no Ray."""

from __future__ import annotations

import threading
from typing import Any

from orchestrator.cells import Cell, TrialJob, controls_of, default_of, studied_cells
from orchestrator.home import USAGE_FILE, Home
from orchestrator.jobs import SweepJobs
from orchestrator.preflight import Plan
from orchestrator.records import TrialRecord
from orchestrator.slots import SlotMeter, keep_usage, kept_usage
from orchestrator.studies import CellStudies
from orchestrator.sweep_files import HomeFiles
from orchestrator.sweep_records import SweepRecords, Watcher
from orchestrator.tracking import SweepTracker
from orchestrator.worker import end_rest, failed


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
        self._plan, self._files = plan, files
        self._studies, self._tracker = studies, tracker
        self._records = SweepRecords(plan, home, files, studies, tracker, watcher)
        self._make = SweepJobs(plan, home)
        self._taken_over = taken_over or threading.Event()
        self._jobs: dict[str, TrialJob] = {}
        self._again: list[TrialJob] = []
        self._controls: list[TrialJob] = []
        self._usage_file = home.sweep(plan.config.sweep_id) / USAGE_FILE
        resources = plan.config.resources
        self.meter = SlotMeter(
            kept_usage(self._usage_file), resources.cpus_per_trial, resources.gpus_per_trial
        )
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
        self._records.redraw_front()

    def _take_over(self, jobs: list[TrialJob]) -> list[TrialJob]:
        """Tell of the jobs that have ended and return the others."""
        for job in jobs:
            self._records.tell_earlier(job)
        return [job for job in jobs if not self._records.has_ended(job)]

    def supernet_trained(self) -> None:
        """Take note of the supernet, if it has been trained."""
        self._files.pull_supernet(self._plan.supernet_key)

    def tidy(self) -> None:
        """Delete what trials that have ended leave behind, whoever was killed before."""
        self._records.tidy()

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
        self.meter.started(trial_id)
        self._records.tell_started(self._jobs[trial_id])

    def epoch_done(self, trial_id: str, progress: dict[str, Any]) -> None:
        """Pass on what a worker reported."""
        self._stop_if_taken_over()
        if "stop_sweep" in progress:
            self.stop_reason = self.stop_reason or progress["stop_sweep"]
            return
        self.meter.reported(trial_id)
        self._records.tell_epoch(self._jobs[trial_id], progress)

    def trial_done(self, trial_id: str) -> None:
        """A worker has returned, or the scheduler has stopped it early."""
        self._stop_if_taken_over()
        job = self._jobs.pop(trial_id)
        self._files.pull(job.steps)
        if self.stop_reason is None:
            self._files.push(end_rest(job, self._records.pruned))
        self._records.tell_ended(job)
        self.meter.ended(trial_id, lost=not self._records.has_ended(job))
        self._records.redraw_front()

    def trial_lost(self, trial_id: str, sentence: str) -> None:
        """A worker died too often: the trial has failed."""
        job, records = self._jobs[trial_id], self._records
        self._files.pull(job.steps)
        ended = end_rest(job, lambda step: records.with_seconds(step, failed(step, sentence)))
        self._files.push(ended)
        self._files.flush()  # its worker is to find that out
        records.tell_ended(job)
        records.redraw_front()

    def take_back(self) -> bool:
        """Queue again what was handed out and has not ended; return whether anything was."""
        for trial_id, job in self._jobs.items():
            self._files.pull(job.steps)
            self._records.tell_ended(job)
            self.meter.ended(trial_id, lost=not self._records.has_ended(job))
        lost = [job for job in self._jobs.values() if not self._records.has_ended(job)]
        self._again = lost + self._again
        self._jobs.clear()
        return bool(lost)

    def account(self) -> dict[str, float]:
        """Keep what the sweep has used until now, tell the tracking store and return it.

        See :data:`orchestrator.accounting.TOTALS`.
        """
        usage = self.meter.usage()
        totals = usage.totals(self._plan.config.resources.prices)
        if totals:
            totals["compute_saved"] = self.compute_saved()
            keep_usage(self._usage_file, usage)
            self._files.keep(self._usage_file.name)
            self._tracker.log_totals(totals)
        return totals

    def compute_saved(self) -> float:
        """Return the share of the trials' compute that early stopping saved, in [0, 1)."""
        return self._records.compute_saved()

    def given_up(self) -> list[Cell]:
        """Return the cells that get no more trials because too many failed in a row."""
        return self._studies.given_up()

    def ended_records(self) -> list[TrialRecord]:
        """Return every trial that has ended, with its place on the front."""
        return self._records.ended()

    def _stop_if_taken_over(self) -> None:
        if self._taken_over.is_set():
            self.stop_reason = self.stop_reason or (
                "another driver has taken it over, since this one could not reach storage.uri for "
                "too long"
            )


def build_studies(plan: Plan, home: Home) -> CellStudies:
    """Open the studies of a sweep."""
    config = plan.config
    defaults = {name: default_of(config, name) for name in config.hyperparameters}
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
