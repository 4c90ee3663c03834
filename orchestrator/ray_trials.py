"""All trials of a sweep as one Ray Tune run.

With ``ray_stopping.py`` and ``ray_workers.py`` all that knows Tune.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from orchestrator.cells import Train
from orchestrator.driver import check_interrupted
from orchestrator.ray_room import trials_at_once
from orchestrator.ray_stopping import StoppingPerCell, job_of
from orchestrator.ray_workers import train_on_workers
from orchestrator.sections import ResourceConfig, SchedulerConfig
from orchestrator.sweep import Sweep
from orchestrator.sweep_records import PHASES
from orchestrator.worker import run_trial_job, stopping_sentence, train_job
from pas_trainer import DataError

MAX_WORKER_DEATHS = 3
"""A trial whose workers died more often than this within one epoch has failed."""

ACCOUNT_EVERY_S = 30.0
"""How often what the sweep has used is kept and told to the tracking store."""


def run_trials(
    sweep: Sweep,
    resources: ResourceConfig,
    scheduler: SchedulerConfig,
    folder: Path,
    train: Train = train_job,
) -> None:
    """Run every trial that ``sweep`` has to give, as one Tune run.

    As another one what that has lost: if a worker dies just when it is to be used for the next
    trial, Tune forgets the trial.

    Args:
        sweep: gives jobs and is told what happens.
        resources: per trial.
        scheduler: early stopping.
        folder: for Ray's own files; removed afterwards.
        train: what a worker does for a job, where a trial has one.
    """
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(_suggested_ahead(resources))
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    _let_killed_for_memory_be_dead()
    for _ in range(1 + MAX_WORKER_DEATHS):
        _run(_tuner(sweep, resources, scheduler, folder, train), folder)
        lost = False
        with _stop_if_storage_fails(sweep):
            lost = sweep.stop_reason is None and sweep.take_back()
        if not lost:
            return
    sweep.stop_reason = sweep.stop_reason or (
        "workers die between two trials, again and again; see Ray's logs"
    )


def _tuner(
    sweep: Sweep,
    resources: ResourceConfig,
    scheduler: SchedulerConfig,
    folder: Path,
    train: Train,
) -> tune.Tuner:
    return tune.Tuner(
        _trainable(resources, train),
        tune_config=tune.TuneConfig(
            search_alg=_SweepSearcher(sweep),
            scheduler=StoppingPerCell(scheduler),
            num_samples=-1,
            reuse_actors=resources.workers_per_trial == 1 or scheduler.name == "none",
            max_concurrent_trials=_at_once(resources),
            trial_dirname_creator=_trial_name,
            trial_name_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            verbose=0,
            callbacks=[_SweepCallback(sweep, resources)],
            stop=_StopWhenTold(sweep),
            failure_config=tune.FailureConfig(max_failures=-1),  # see _SweepCallback
        ),
    )


def _let_killed_for_memory_be_dead() -> None:
    """Have Tune replace workers that Ray's memory monitor has killed, as it does other dead ones.

    These end with an error of their own, which it knows not: it would end the whole run.
    """
    from ray.air.execution._internal import actor_manager
    from ray.exceptions import OutOfMemoryError, RayActorError
    from ray.tune.execution import tune_controller

    for module in (actor_manager, tune_controller):
        module.RayActorError = (RayActorError, OutOfMemoryError)


def _run(tuner: tune.Tuner, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        # Stdout is for results; Tune prints its own tables there.
        with Path(os.devnull).open("w") as sink, contextlib.redirect_stdout(sink):
            tuner.fit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _trainable(resources: ResourceConfig, train: Train) -> Any:
    """Return what Tune runs: the trial, or what waits for the trial's workers."""
    if resources.workers_per_trial == 1:

        def train_here(config: dict[str, Any]) -> None:
            run_trial_job(config["job"], tune.report, train)

        own = {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial}
        return tune.with_resources(train_here, own)

    def train_there(config: dict[str, Any]) -> None:
        run_trial_job(
            config["job"], tune.report, lambda job, _report: train_on_workers(job, resources)
        )

    # Tune must book something for what only waits; not CPUs, which the workers may need all.
    return tune.with_resources(train_there, {"memory": 2**20})


def _at_once(resources: ResourceConfig) -> int | None:
    """Return how many trials may run; Tune sees by itself what there is room for, but not there."""
    if resources.workers_per_trial == 1:
        return resources.max_concurrent_trials
    return max(1, trials_at_once(resources))  # Tune takes 0 for no limit


def _suggested_ahead(resources: ResourceConfig) -> int:
    """Return how many trials may wait for room, which is what Ray's autoscaler goes by.

    As few as possible: what is suggested late is suggested with all that is known. With several
    workers per trial one is enough, since these ask for themselves.
    """
    return (resources.max_concurrent_trials or 1) if resources.wait_for_nodes_s else 1


def _trial_name(trial: Trial) -> str:
    return job_of(trial).trial_id


@contextlib.contextmanager
def _stop_if_storage_fails(sweep: Sweep) -> Iterator[None]:
    """Let the sweep end in order when its records cannot be written."""
    try:
        yield
    except (DataError, OSError) as error:
        sweep.stop_reason = sweep.stop_reason or stopping_sentence(error)


class _Unpickled:
    """Tune pickles searchers and callbacks for a restore that we never use: pickle nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _SweepSearcher(_Unpickled, Searcher):  # type: ignore[misc]
    """Gives Tune the sweep's next job."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(metric="gain", mode="max")
        self._sweep = sweep

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        job = None
        with _stop_if_storage_fails(self._sweep):
            job = self._sweep.next_job()
        return Searcher.FINISHED if job is None else {"job": job}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The callback below tells the sweep."""

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()


class _SweepCallback(_Unpickled, tune.Callback):  # type: ignore[misc]
    """Tells the sweep what happens to its trials.

    A lost worker or node is not the trial's fault: it goes on from its checkpoint elsewhere, as
    often as it takes. One that kills its workers again and again without getting on has failed;
    it is given that result, with which it returns at once when Tune starts it once more. Where
    not even that ends well, no worker can be had at all.
    """

    def __init__(self, sweep: Sweep, resources: ResourceConfig) -> None:
        self._sweep, self._resources = sweep, resources
        self._account_due = 0.0
        self._deaths: Counter[str] = Counter()
        self._reached: dict[str, tuple[int, int, int]] = {}

    def on_step_begin(self, iteration: int, trials: list[Trial], **_info: Any) -> None:
        check_interrupted()
        if time.monotonic() >= self._account_due:
            self._account_due = time.monotonic() + ACCOUNT_EVERY_S
            self._sweep.meter.set_slots(trials_at_once(self._resources))
            with _stop_if_storage_fails(self._sweep):
                self._sweep.account()

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **_info: Any
    ) -> None:
        self._sweep.trial_started(job_of(trial).trial_id)

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **_info: Any,
    ) -> None:
        if not result.get("done"):  # the last report is repeated when the function returns
            self._note_progress(trial.trial_id, result)
            with _stop_if_storage_fails(self._sweep):
                self._sweep.epoch_done(job_of(trial).trial_id, result)

    def _note_progress(self, trial_id: str, result: dict[str, Any]) -> None:
        """Forgive deaths once a trial is farther than ever; a new worker repeats an epoch."""
        if "phase" in result:
            place = (result["step"], PHASES.index(result["phase"]), result["epoch"])
            if place > self._reached.get(trial_id, ()):
                self._reached[trial_id] = place
                self._deaths.pop(trial_id, None)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **_info: Any
    ) -> None:
        with _stop_if_storage_fails(self._sweep):
            self._sweep.trial_done(job_of(trial).trial_id)
        self._reached.pop(trial.trial_id, None)
        _forget(trial)

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **_info: Any
    ) -> None:
        self._sweep.meter.ended(job_of(trial).trial_id, lost=True)
        self._deaths[trial.trial_id] += 1
        deaths = self._deaths[trial.trial_id]
        if deaths > 2 * MAX_WORKER_DEATHS:
            self._sweep.stop_reason = (
                f"workers die before they begin; see Ray's logs ({deaths} did)"
            )
        elif deaths > MAX_WORKER_DEATHS:
            with _stop_if_storage_fails(self._sweep):
                self._sweep.trial_lost(
                    job_of(trial).trial_id, f"its workers died {deaths} times within one epoch"
                )


def _forget(trial: Trial) -> None:
    """Leave little of an ended trial: Tune keeps them all, with statistics of every metric."""
    trial.run_metadata.metric_analysis.clear()
    trial.run_metadata.metric_n_steps.clear()
    trial.config = {}


class _StopWhenTold(_Unpickled, tune.Stopper):  # type: ignore[misc]
    """Ends the run early once the sweep has a reason to."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._sweep.stop_reason is not None
