from __future__ import annotations

import errno
from pathlib import Path

import pytest

from orchestrator import worker
from orchestrator.cells import Cell, TrialJob, trial_config
from orchestrator.loading import load_sweep
from pas_trainer import DataError, DivergenceError

DIGITS = Path(__file__).parents[2] / "examples" / "digits.yaml"


@pytest.fixture
def job(tmp_path) -> TrialJob:
    cell = Cell(0.5, 10.0)
    return TrialJob(
        trial_id=cell.trial_id(0),
        sweep_id="s-1",
        cell=cell,
        number=0,
        hyperparameters={"learning_rate": 0.1},
        config=trial_config(load_sweep(DIGITS), cell, 0, {}),
        supernet_folder=tmp_path / "supernet",
        folder=tmp_path / "trial",
        num_threads=1,
    )


def run_with(job, monkeypatch, error) -> list[dict]:
    def broken(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(worker, "run_search", broken)
    reports: list[dict] = []
    worker.run_trial_job(job, reports.append)
    return reports


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (DataError("cannot decode image x.png"), "cannot decode image x.png"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
    ],
)
def test_what_would_break_every_trial_stops_the_sweep(job, monkeypatch, error, sentence):
    (report,) = run_with(job, monkeypatch, error)
    assert sentence in report["stop_sweep"]
    assert worker.read_result(job) is None  # to be resumed


def test_divergence_fails_the_trial_alone(job, monkeypatch):
    assert run_with(job, monkeypatch, DivergenceError("the loss became nan")) == []
    record = worker.read_result(job)
    assert record is not None
    assert (record.status, record.error) == ("FAILED", "the loss became nan")


def test_an_unforeseen_error_fails_the_trial_and_keeps_its_trace(job, monkeypatch):
    run_with(job, monkeypatch, KeyError("surprise"))
    record = worker.read_result(job)
    assert record is not None
    assert record.status == "FAILED"
    assert "surprise" in (record.error or "")
    assert "Traceback" in (job.folder / "error.txt").read_text()


def test_an_ended_trial_is_not_run_again(job, monkeypatch):
    worker.write_result(job, worker.pruned(job))
    assert run_with(job, monkeypatch, AssertionError("ran again")) == []
    record = worker.read_result(job)
    assert record is not None
    assert record.status == "PRUNED"


def test_a_record_survives_the_file(job):
    record = worker.failed(job, "lost")
    worker.write_result(job, record)
    assert worker.read_result(job) == record


def test_threads_follow_the_cpus_of_a_trial():
    assert worker.worker_threads(0.5) == 1
    assert worker.worker_threads(1.0) == 1
