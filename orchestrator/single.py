"""``pas search``: one trial in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.accounting import priced
from orchestrator.cells import TrialJob, cells_of, trial_config
from orchestrator.config import SweepConfig
from orchestrator.errors import SweepStoppedError
from orchestrator.home import Home
from orchestrator.latency_table import keep_table, kept_table, plan_latency
from orchestrator.preflight import check_device, check_disk, make_plan
from orchestrator.progress import ProgressBoard
from orchestrator.records import TrialRecord
from orchestrator.worker import (
    read_result,
    run_trial_job,
    started,
    stopping_sentence,
    worker_threads,
)
from pas_trainer import DataError, DivergenceError, WeightsError, train_supernet


def search_one(config: SweepConfig, home: Home, console: Console) -> tuple[TrialRecord, Path]:
    """Run the sweep's only cell once and return its record and its folder.

    Resumes from its last epoch, and returns at once if it has finished before.

    Raises:
        UserError: bad input.
        SweepStoppedError: the data or the disk gave out; the same call goes on.
    """
    with console.status("data") as status:
        plan = make_plan(config, status.update)
    check_device(config)
    check_disk(home, plan)
    (cell,) = cells_of(config)
    folder = home.root / "searches" / config.sweep_id
    plan = plan_latency(plan, home, folder, console)
    keep_table(plan, folder)
    table = kept_table(folder) if plan.latency_table else None
    job = TrialJob(
        trial_id=cell.trial_id(0),
        sweep_id=config.sweep_id,
        cell=cell,
        number=0,
        hyperparameters={},
        config=trial_config(config, cell, 0, {}, table),
        supernet_folder=home.supernet(plan.supernet_key),
        folder=folder,
        num_threads=worker_threads(config.resources.cpus_per_trial),
        cpus=config.resources.cpus_per_trial,
        gpus=config.resources.gpus_per_trial,
        data_version=plan.data_version,
    )
    stopped: list[str] = []
    with ProgressBoard(console, config.sweep_id, [cell], 1) as board:

        def report(progress: dict[str, Any]) -> None:
            if "stop_sweep" in progress:
                stopped.append(progress["stop_sweep"])
            else:
                board.trial_progress(job.trial_id, progress)

        if read_result(job) is None:
            try:
                train_supernet(plan.supernet_training, job.supernet_folder, board.supernet_progress)
            except (DataError, WeightsError, DivergenceError, OSError) as error:
                raise SweepStoppedError(f"supernet: {stopping_sentence(error)}") from None
        board.trial_started(started(job))
        run_trial_job(job, report)
        record = read_result(job)
        if record is None:
            raise SweepStoppedError(stopped[0] if stopped else "the trial left no result")
        record = priced(record, config.resources.prices)
        board.trial_ended(record)
    return record, folder
