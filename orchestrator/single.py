"""``pas search``: one trial in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from orchestrator.accounting import priced
from orchestrator.cells import TrialJob, cells_of, trial_config
from orchestrator.config import SweepConfig
from orchestrator.errors import SweepStoppedError, UserError
from orchestrator.home import Home
from orchestrator.latency_table import keep_table, kept_table, plan_latency
from orchestrator.node_resources import worker_threads
from orchestrator.preflight import Plan, check_device, check_disk, make_plan
from orchestrator.progress import ProgressBoard
from orchestrator.records import TrialRecord
from orchestrator.worker import read_result, run_trial_job, started, supernet_error
from pas_trainer import (
    DataError,
    DivergenceError,
    TaskError,
    WeightsError,
    content_key,
    train_supernet,
)
from search_space import FloatRange, check_tunable


def read_hyperparameters(given: Sequence[str]) -> dict[str, float]:
    """Return what the command line says of hyper-parameters, each as ``name=value``.

    Raises:
        UserError: one is not written like that, not known or out of range.
    """
    chosen: dict[str, float] = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            chosen[name] = float(value)
            check_tunable({name: FloatRange(low=chosen[name], high=chosen[name])})
        except ValueError as error:
            reason = str(error) if name in chosen else "write --hyperparameter NAME=NUMBER"
            raise UserError(f"--hyperparameter {text!r}: {reason}") from None
    return chosen


def search_one(
    config: SweepConfig,
    home: Home,
    console: Console,
    *,
    number: int = 0,
    hyperparameters: Mapping[str, float] | None = None,
) -> tuple[TrialRecord, Path]:
    """Run one trial of the sweep's only cell and return its record and its folder.

    Resumes from its last epoch, and returns at once if it has finished before. With the number and
    the hyper-parameters of a trial of a sweep it is that trial again: on a CPU with as many threads
    bit for bit.

    Args:
        config: the sweep.
        home: where state is.
        console: for progress.
        number: its index within the cell, which decides its seed.
        hyperparameters: in place of those of the file.

    Raises:
        UserError: bad input.
        SweepStoppedError: the data or the disk gave out; the same call goes on.
    """
    with console.status("data") as status:
        plan = make_plan(config, status.update)
    check_device(config)
    check_disk(home, plan)
    folder = home.root / "searches" / config.sweep_id
    plan = plan_latency(plan, home, folder, console)
    keep_table(plan, folder)
    job = _job(plan, home, folder, number, dict(hyperparameters or {}))
    stopped: list[str] = []
    metric = plan.task.metric.name
    with ProgressBoard(console, config.sweep_id, [job.cell], 1, metric=metric) as board:

        def report(progress: dict[str, Any]) -> None:
            if "stop_sweep" in progress:
                stopped.append(progress["stop_sweep"])
            else:
                board.trial_progress(job.trial_id, progress)

        if read_result(job) is None:
            try:
                train_supernet(plan.supernet_training, job.supernet_folder, board.supernet_progress)
            except (DataError, WeightsError, DivergenceError, TaskError, OSError) as error:
                raise supernet_error(error) from None
        board.trial_started(started(job))
        run_trial_job(job, report)
        record = read_result(job)
        if record is None:
            raise SweepStoppedError(stopped[0] if stopped else "the trial left no result")
        record = priced(record, config.resources.prices)
        board.trial_ended(record)
    return record, job.folder


def _job(
    plan: Plan, home: Home, folder: Path, number: int, hyperparameters: dict[str, float]
) -> TrialJob:
    """Return the job of a trial; the same number at another limit or with other hyper-parameters
    has a folder of its own."""
    config = plan.config
    (cell,) = cells_of(config)
    table = kept_table(folder) if plan.latency_table else None
    trial_id = cell.trial_id(number)
    trial = trial_config(config, cell, number, hyperparameters, table)
    return TrialJob(
        trial_id=trial_id,
        sweep_id=config.sweep_id,
        cell=cell,
        number=number,
        hyperparameters=hyperparameters,
        config=trial,
        supernet_folder=home.supernet(plan.supernet_key),
        folder=folder / f"{trial_id}-{content_key(trial)[:8]}",
        num_threads=worker_threads(config.resources.cpus_per_trial),
        cpus=config.resources.cpus_per_trial,
        gpus=config.resources.gpus_per_trial if torch.cuda.is_available() else 0,
        data_version=plan.data_version,
    )
