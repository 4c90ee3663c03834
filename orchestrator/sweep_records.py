"""What is known of a sweep's trials, and who is told of it: Optuna, MLflow, a person at the screen.

The folder of a trial is the truth: ``result.json`` is written last, in one step. The others follow
it, and are told again after a crash between the writes.
"""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any, Protocol

from orchestrator.accounting import booked, priced
from orchestrator.cells import TrialJob
from orchestrator.home import PREVIEW_FILES, Home
from orchestrator.pareto import mark_front
from orchestrator.preflight import Plan
from orchestrator.records import TrialRecord
from orchestrator.retention import Retention
from orchestrator.savings import share_saved, spent_and_saved
from orchestrator.spool import SEARCH_WIDTHS, Epoch, keep_epoch, kept_epochs, widths_by_epoch
from orchestrator.studies import CellStudies
from orchestrator.sweep_files import HomeFiles
from orchestrator.tracking import SweepTracker
from orchestrator.worker import pruned, read_result, started, write_result
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


class SweepRecords:
    """The records of one sweep while it runs.

    Args:
        plan: of the sweep.
        home: where state is.
        files: what workers leave.
        studies: its Optuna studies.
        tracker: of its runs.
        watcher: shows a person what happens.
    """

    def __init__(
        self,
        plan: Plan,
        home: Home,
        files: HomeFiles,
        studies: CellStudies,
        tracker: SweepTracker,
        watcher: Watcher,
    ) -> None:
        self._plan, self._home, self._files = plan, home, files
        self._studies, self._tracker, self._watcher = studies, tracker, watcher
        self._resources = plan.config.resources
        self._resource = plan.config.budget.resource
        self._retention = Retention(files, plan.config.storage.keep, self._resource)
        self._progress: dict[str, dict[str, Any]] = {}
        self._records: dict[str, TrialRecord] = {}

    def tell_earlier(self, job: TrialJob) -> None:
        """Tell of what earlier drivers left of a job; the tracking store may not have had it."""
        for step in job.steps:
            epochs = kept_epochs(step.folder)
            if epochs:
                self._tracker.trial_started(started(step))
            for epoch in epochs:
                self._tracker.log_epoch(step.trial_id, epoch.metrics, epoch.step, epoch.time_ms)
        self.tell_ended(job)

    def tell_started(self, job: TrialJob) -> None:
        """Tell that a worker trains the first step of a job that has not ended."""
        left = [step for step in job.steps if not self.has_ended(step)]
        if left:  # else it has failed, and its worker will find that out
            self._step_started(left[0])

    def tell_epoch(self, job: TrialJob, progress: dict[str, Any]) -> None:
        """Tell of an epoch; ``progress`` as in :data:`orchestrator.worker.PROGRESS_KEYS`."""
        step = job.steps[progress["step"]]
        self._progress[step.trial_id] = progress
        self._tell_steps(job, progress["step"])
        if step.trial_id not in self._records:
            self._step_started(step)
        before = _search_epochs(job, progress["step"]) if progress["phase"] == "finetune" else 0
        metrics = {
            "loss": progress["loss"],
            **{f"epoch_{name}": value for name, value in progress["metrics"]},
            "epoch_macs_ratio": progress["macs_ratio"],
            "phase": float(PHASES.index(progress["phase"])),
        }
        step_number, now_ms = before + progress["epoch"], time.time_ns() // 1_000_000
        epoch = Epoch(step_number, now_ms, metrics, dict(progress.get("widths", ())))
        keep_epoch(step.folder, epoch)
        self._tracker.log_epoch(step.trial_id, metrics, epoch.step, epoch.time_ms)
        self._watcher.trial_progress(step.trial_id, progress)

    def tell_ended(self, job: TrialJob) -> None:
        """Tell of what has ended of a job since it was last asked."""
        for step in job.steps:
            record = None if self.has_ended(step) else read_result(step)
            if record is not None:
                timed = self.with_seconds(step, record)
                if timed is not record:
                    write_result(step, timed)
                    self._files.push([step])
                self._tell(step, priced(timed, self._resources.prices))
        if job.control is None and all(self.has_ended(step) for step in job.steps):
            ended = [self._records[step.trial_id] for step in job.steps]
            gains = [r.gain for r in ended if r.gain is not None]
            status = next((r.status for r in ended if r.status != "FINISHED"), "FINISHED")
            mean = sum(gains) / len(gains) if gains else None
            self._studies.tell(job.steps[0].cell, job.number, status, mean)

    def redraw_front(self) -> None:
        """Have the front drawn anew."""
        full, limits = self._plan.graph.count(self._resource), list(self._plan.limits.values())
        self._tracker.update_front(self._ended(), self._resource, full, limits)

    def tidy(self) -> None:
        """Delete what trials that have ended leave behind, whoever was killed before."""
        self._retention.tidy()

    def has_ended(self, job: TrialJob) -> bool:
        """Whether a job, or a step of one, has a result that has been told."""
        record = self._records.get(job.trial_id)
        return record is not None and record.status != "RUNNING"

    def ended(self) -> list[TrialRecord]:
        """Return every trial that has ended, with its place on the front."""
        return mark_front(self._ended(), self._resource)

    def compute_saved(self) -> float:
        """Return the share of the trials' compute that early stopping saved, in [0, 1)."""
        return share_saved(self._records.values(), self._pretrain_macs())

    def pruned(self, job: TrialJob) -> TrialRecord:
        """Return the record of a trial that is stopped now, with what it took and saved."""
        progress = self._progress.get(job.trial_id)
        if progress is None or not isinstance(job.config, TrialConfig):
            return self.with_seconds(job, pruned(job))
        full, images = self._plan.graph.count_macs(), self._plan.num_train
        spent, saved = spent_and_saved(job.config, progress, full, images)
        record = pruned(job, training_macs=self._pretrain_macs() + spent, saved_macs=saved)
        return self.with_seconds(job, record)

    def with_seconds(self, step: TrialJob, record: TrialRecord) -> TrialRecord:
        """Add the seconds until the last report, where the record does not tell."""
        seconds = self._progress.get(step.trial_id, {}).get("seconds")
        if record.cpu_seconds is not None or not seconds:
            return record
        return dataclasses.replace(record, **booked(seconds, step.cpus, step.gpus))

    def _tell_steps(self, job: TrialJob, current: int) -> None:
        """Tell of the steps before the current one, whose networks are trained."""
        untold = [step for step in job.steps[:current] if not self.has_ended(step)]
        if untold:
            self._files.pull(untold, wait=False)  # else at the next report
            self.tell_ended(job)
            self.redraw_front()

    def _step_started(self, step: TrialJob) -> None:
        record = started(step)
        self._records[step.trial_id] = record
        self._tracker.trial_started(record)
        self._watcher.trial_started(record)

    def _tell(self, job: TrialJob, record: TrialRecord) -> None:
        self._records[job.trial_id] = record
        self._progress.pop(job.trial_id, None)
        architecture = job.folder / "architecture.json"
        artifacts: dict[str, str | bytes] = {
            name: path.read_bytes()
            for name in PREVIEW_FILES
            if (path := job.folder / name).exists()
        }
        if architecture.exists():
            artifacts["architecture.json"] = architecture.read_text()
        if searched := widths_by_epoch(kept_epochs(job.folder)):
            artifacts[SEARCH_WIDTHS] = json.dumps(searched)
        self._tracker.trial_finished(record, artifacts)
        self._watcher.trial_ended(record)
        self._retention.ended(record)

    def _ended(self) -> list[TrialRecord]:
        return [record for record in self._records.values() if record.status != "RUNNING"]

    def _pretrain_macs(self) -> int:
        trained = read_supernet_result(self._home.supernet(self._plan.supernet_key))
        return (trained.training_macs or 0) if trained else 0


def _search_epochs(job: TrialJob, step: int) -> int:
    config = job.config
    if isinstance(config, AnnealedConfig):
        config = config.at(step)
    return 0 if isinstance(config, ControlConfig) else config.search.epochs
