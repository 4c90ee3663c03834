"""The sweep on Ray: one supernet task, then one Tune run over all cells. The only Ray module."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Read by Ray when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "1")  # suggest late, with all that is known
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "600")  # our own records are what resumes

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from orchestrator.cells import TrialJob
from orchestrator.config import ResourceConfig, SchedulerConfig
from orchestrator.errors import SweepStoppedError, UserError
from orchestrator.sweep import Sweep
from orchestrator.worker import run_trial_job, stopping_sentence, worker_threads
from pas_trainer import DataError, DivergenceError, EpochReport, SupernetResult, SupernetTraining

MAX_WORKER_DEATHS = 3
"""A trial whose workers died more often than this has failed."""


@contextlib.contextmanager
def ray_session(address: str | None, resources: ResourceConfig) -> Iterator[None]:
    """Connect to a cluster, or start a local one; check that one trial fits into it.

    Raises:
        UserError: the cluster cannot be reached, or is too small for one trial.
    """
    try:
        ray.init(
            address=address or "local",
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"cannot reach a Ray cluster at {address or 'local'}: {first}") from None
    try:
        there = ray.cluster_resources()
        for kind, asked in (("CPU", resources.cpus_per_trial), ("GPU", resources.gpus_per_trial)):
            if asked > there.get(kind, 0):
                raise UserError(
                    f"resources.{kind.lower()}s_per_trial is {asked:g}, but the cluster has only "
                    f"{there.get(kind, 0):g} {kind}s"
                )
        yield
    finally:
        ray.shutdown()


class _SupernetActor:
    """Trains the supernet in one thread and tells its progress from another."""

    def __init__(self) -> None:
        self._reports: list[EpochReport] = []

    def train(self, config: SupernetTraining, folder: Path, num_threads: int) -> SupernetResult:
        import torch

        from pas_trainer import train_supernet

        torch.set_num_threads(num_threads)
        return train_supernet(config, folder, self._reports.append)

    def reports(self) -> list[EpochReport]:
        return list(self._reports)


_RemoteSupernetActor = ray.remote(max_restarts=2, max_task_retries=2, max_concurrency=2)(
    _SupernetActor
)


def train_supernet_on_cluster(
    config: SupernetTraining,
    folder: Path,
    resources: ResourceConfig,
    show: Any,
) -> SupernetResult:
    """Train the supernet as one actor on the cluster; ``show`` is called with each report.

    Raises:
        SweepStoppedError: the images or the recipe cannot be used; resumable.
    """
    num_cpus = max(resources.cpus_per_trial, min(8.0, ray.cluster_resources().get("CPU", 1.0)))
    actor = _RemoteSupernetActor.options(
        num_cpus=num_cpus, num_gpus=resources.gpus_per_trial
    ).remote()
    result = actor.train.remote(config, folder, worker_threads(num_cpus))
    shown = 0
    try:
        while True:
            ready, _ = ray.wait([result], timeout=0.3)
            reports = ray.get(actor.reports.remote())
            for report in reports[shown:]:
                show(report)
            shown = len(reports)
            if ready:
                trained: SupernetResult = ray.get(result)
                return trained
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, DataError | DivergenceError | OSError):
            raise SweepStoppedError(f"supernet: {stopping_sentence(cause)}") from None
        raise
    except ray.exceptions.RayActorError:
        raise SweepStoppedError(
            "the worker that trained the supernet died three times; see Ray's logs, "
            "then run the same command to go on from its last epoch"
        ) from None
    finally:
        ray.kill(actor)


def run_trials(
    sweep: Sweep, resources: ResourceConfig, scheduler: SchedulerConfig, folder: Path
) -> None:
    """Run every trial that ``sweep`` has to give, as one Tune run.

    Args:
        sweep: gives jobs and is told what happens.
        resources: per trial.
        scheduler: early stopping.
        folder: for Ray's own files; removed afterwards.
    """
    tuner = tune.Tuner(
        tune.with_resources(
            _trainable,
            {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial},
        ),
        tune_config=tune.TuneConfig(
            search_alg=_SweepSearcher(sweep),
            scheduler=_PerCell(scheduler),
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=_trial_name,
            trial_name_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            verbose=0,
            callbacks=[_SweepCallback(sweep)],
            stop=_StopWhenTold(sweep),
            failure_config=tune.FailureConfig(max_failures=MAX_WORKER_DEATHS),
        ),
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        # Stdout is for results; Tune prints its own tables there.
        with Path(os.devnull).open("w") as sink, contextlib.redirect_stdout(sink):
            tuner.fit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _trainable(config: dict[str, Any]) -> None:
    run_trial_job(config["job"], tune.report)


def _trial_name(trial: Trial) -> str:
    return _job(trial).trial_id


def _job(trial: Trial) -> TrialJob:
    job: TrialJob = trial.config["job"]
    return job


class _Unpickled:
    """Tune pickles searchers and callbacks for a restore that we never use: pickle nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _SweepSearcher(_Unpickled, Searcher):  # type: ignore[misc]
    """Gives Tune the sweep's next job."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(metric="accuracy", mode="max")
        self._sweep = sweep

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        job = self._sweep.next_job()
        return Searcher.FINISHED if job is None else {"job": job}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The callback below tells the sweep."""

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()


class _SweepCallback(_Unpickled, tune.Callback):  # type: ignore[misc]
    """Tells the sweep what happens to its trials."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **_info: Any
    ) -> None:
        self._sweep.trial_started(_job(trial).trial_id)

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **_info: Any,
    ) -> None:
        if not result.get("done"):  # the last report is repeated when the function returns
            self._sweep.epoch_done(_job(trial).trial_id, result)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **_info: Any
    ) -> None:
        self._sweep.trial_done(_job(trial).trial_id)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **_info: Any
    ) -> None:
        self._sweep.trial_lost(
            _job(trial).trial_id, f"its workers died {MAX_WORKER_DEATHS + 1} times"
        )


class _StopWhenTold(_Unpickled, tune.Stopper):  # type: ignore[misc]
    """Ends the run early once the sweep has a reason to."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._sweep.stop_reason is not None


class _PerCell(FIFOScheduler):  # type: ignore[misc]
    """Early stopping that compares a trial only with others of its own cell.

    Accuracies at different budgets cannot be compared. Only fine-tuning epochs count.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        super().__init__()
        self._config = config
        self._cells: dict[str, AsyncHyperBandScheduler] = {}

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        epoch = result.get("epoch", 0) if result.get("phase") == "finetune" else 0
        if self._config.name == "none" or not 0 < epoch < result["num_epochs"]:
            return str(TrialScheduler.CONTINUE)
        cell = _job(trial).cell.name
        if cell not in self._cells:
            self._cells[cell] = AsyncHyperBandScheduler(
                time_attr="epoch",
                metric="accuracy",
                mode="max",
                grace_period=self._config.grace_epochs,
                reduction_factor=self._config.reduction_factor,
                max_t=10**9,  # trials end by themselves
            )
        asha = self._cells[cell]
        if trial.trial_id not in self._known(asha):
            asha.on_trial_add(tune_controller, trial)
        return str(asha.on_trial_result(tune_controller, trial, result))

    @staticmethod
    def _known(asha: AsyncHyperBandScheduler) -> Any:
        return asha._trial_info
