"""Early stopping of trials, as a scheduler of Ray Tune."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from orchestrator.cells import TrialJob
from orchestrator.sections import SchedulerConfig


def job_of(trial: Trial) -> TrialJob:
    """Return what one of Tune's trials is to do."""
    job: TrialJob = trial.config["job"]
    return job


class StoppingPerCell(FIFOScheduler):  # type: ignore[misc]
    """Early stopping that compares a trial only with others of its own cell.

    Scores at different budgets cannot be compared. Only fine-tuning epochs count. Controls
    are never stopped.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        super().__init__()
        self._config = config
        self._cells: dict[str, TrialScheduler] = {}
        self._known: set[str] = set()

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Start whichever waits (some are suggested ahead, others lost their worker).

        FIFO's own method goes through the thousands of trials that have ended.
        """
        live = tune_controller.get_live_trials()
        return next((trial for trial in live if trial.status == Trial.PENDING), None)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Let the rule of the trial's own cell decide."""
        epoch = result.get("epoch", 0) if result.get("phase") == "finetune" else 0
        is_control = job_of(trial).control is not None
        if self._config.name == "none" or is_control or not 0 < epoch < result["num_epochs"]:
            return str(TrialScheduler.CONTINUE)
        cell = job_of(trial).cell.name
        if cell not in self._cells:
            self._cells[cell] = _early_stopping(self._config)
        if trial.trial_id not in self._known:
            self._known.add(trial.trial_id)
            self._cells[cell].on_trial_add(tune_controller, trial)
        return str(self._cells[cell].on_trial_result(tune_controller, trial, result))


def _early_stopping(config: SchedulerConfig) -> TrialScheduler:
    """Return what stops trials of one cell."""
    common = {"time_attr": "epoch", "metric": "gain", "mode": "max"}
    if config.name == "median":
        return MedianStoppingRule(**common, grace_period=config.grace_epochs)
    return AsyncHyperBandScheduler(
        **common,
        grace_period=config.grace_epochs,
        reduction_factor=config.reduction_factor,
        max_t=10**9,  # trials end by themselves
    )
