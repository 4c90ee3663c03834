"""Sweeps on digits for measuring the orchestrator, with real trials or with ones without work."""

from __future__ import annotations

import json
import resource
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from torch.optim.optimizer import register_optimizer_step_pre_hook

from orchestrator.cells import Report, Train, TrialJob
from orchestrator.config import SweepConfig
from orchestrator.home import Home, write_json
from orchestrator.records import TrialRecord
from orchestrator.run import prepare, tracker_of
from orchestrator.sweep import Sweep, build_studies
from orchestrator.worker import train_job, write_result

QUIET = Console(quiet=True)
TIMES = "times.json"


def sweep_of(
    limits: tuple[float, ...], strengths: tuple[float, ...], trials_per_cell: int, epochs: int
) -> SweepConfig:
    """A sweep on digits over a few cells, ``learning_rate`` steered by Optuna."""
    return SweepConfig.model_validate(
        {
            "name": "bench",
            "data": {"name": "digits", "validation": 0.25},
            "supernet": {"name": "repvgg_tiny"},
            "budget": {"limits": list(limits)},
            "strengths": list(strengths),
            "trials_per_cell": trials_per_cell,
            "optimizer": {"batch_size": 64},
            "pretrain": {"epochs": 1},
            "search": {"epochs": 2},
            "finetune": {"epochs": epochs},
            "hyperparameters": {"learning_rate": {"low": 0.02, "high": 0.2, "log": True}},
        }
    )


@dataclass(slots=True)
class Ran:
    """How a sweep went.

    Attributes:
        seconds: from the first trial handed out to the last record delivered to MLflow.
        peak_gb: the most memory that the driver had by then.
        ends: when each trial's end was known, seconds.
    """

    seconds: float = 0.0
    peak_gb: float = 0.0
    ends: list[float] = field(default_factory=list)

    def trial_started(self, record: TrialRecord) -> None:
        """As a watcher of the sweep."""

    def trial_progress(self, trial_id: str, progress: Mapping[str, Any]) -> None:
        """As a watcher of the sweep."""

    def trial_ended(self, _record: TrialRecord) -> None:
        """As a watcher of the sweep."""
        self.ends.append(time.monotonic())


def run(config: SweepConfig, folder: Path, train: Train) -> Ran:
    """Run a sweep as ``pas sweep`` does, with SQLite as MLflow's and Optuna's store."""
    from orchestrator.ray_cluster import ray_session, train_supernet_on_cluster
    from orchestrator.ray_trials import run_trials

    home, ran = Home(folder), Ran()
    plan = prepare(config, home, QUIET)
    tracker = tracker_of(plan, home).start()
    sweep = Sweep(plan, home, build_studies(plan, home), tracker, ran)
    sweep.catch_up()
    ran.ends.clear()
    if sweep.has_work():
        with ray_session(None):
            supernet = home.supernet(plan.supernet_key)
            training = plan.supernet_training
            train_supernet_on_cluster(training, supernet, config.resources, lambda _: None)
            start = time.monotonic()
            run_trials(sweep, config.resources, config.scheduler, folder / "ray", train)
            tracker.close("FINISHED", timeout_s=600)
            ran.seconds = time.monotonic() - start
    tracker.close("FINISHED", timeout_s=600)
    ran.peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return ran


def no_work(job: TrialJob, report: Report) -> None:
    """One epoch of nothing, and a result that depends on the trial's id."""
    luck = zlib.crc32(job.trial_id.encode()) / 2**32
    report(
        {
            "step": 0,
            "phase": "finetune",
            "epoch": 1,
            "num_epochs": 1,
            "loss": 1.0,
            "score": luck,
            "gain": luck,
            "metrics": [("accuracy", luck)],
            "macs_ratio": job.cell.budget,
        }
    )
    record = TrialRecord(
        trial_id=job.trial_id,
        sweep_id=job.sweep_id,
        status="FINISHED",
        budget=job.cell.budget,
        strength=job.cell.strength,
        number=job.number,
        hyperparameters=dict(job.hyperparameters),
        macs=round(1e6 * job.cell.budget * (0.9 + 0.1 * luck)),
        macs_ratio=job.cell.budget,
        score=luck,
    )
    write_result(job, record)


@dataclass(frozen=True, slots=True)
class Times:
    """When a trial was where, seconds since 1970."""

    started: float
    first_step: float
    ended: float


def timed(job: TrialJob, report: Report) -> None:
    """A real trial that leaves its times behind."""
    started, steps = time.time(), list[float]()

    def note(*_: object) -> None:
        if not steps:
            steps.append(time.time())

    hook = register_optimizer_step_pre_hook(note)
    try:
        train_job(job, report)
    finally:
        hook.remove()
    write_json(job.folder / TIMES, [started, steps[0], time.time()])


def times_of(folder: Path) -> list[Times]:
    """Return what :func:`timed` left in a home folder, first started first."""
    found = [Times(*json.loads(p.read_text())) for p in folder.glob(f"sweeps/*/trials/*/{TIMES}")]
    return sorted(found, key=lambda times: times.started)
