from __future__ import annotations

import dataclasses
import errno
import json
from pathlib import Path

import pytest
import torch

from orchestrator import worker
from orchestrator.cells import Cell, TrialJob, trial_config
from orchestrator.errors import SweepStoppedError, UserError, WorkerLostError
from orchestrator.loading import load_sweep
from orchestrator.memory import in_smaller_parts
from pas_trainer import (
    AnnealedConfig,
    ControlConfig,
    DataError,
    DivergenceError,
    OptimizerConfig,
    PretrainConfig,
    SupernetTraining,
    TaskError,
    train_supernet,
)

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


def test_an_error_may_name_a_file_that_is_no_utf_8(job, monkeypatch):
    run_with(job, monkeypatch, KeyError("k\udce4fig.png"))
    record = worker.read_result(job)
    assert record is not None
    assert "k\\udce4fig.png" in (record.error or "")
    assert "k\\udce4fig.png" in (job.folder / "error.txt").read_text()


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_a_trial_out_of_memory_is_tried_again_in_smaller_parts(job, monkeypatch, error):
    tried = []

    def search(config, *_args, **_kwargs):
        tried.append(config.optimizer.micro_batches)
        if len(tried) < 3:
            raise error
        raise DivergenceError("the loss became nan")

    monkeypatch.setattr(worker, "run_search", search)
    worker.run_trial_job(job, print)
    assert tried == [1, 2, 4]
    record = worker.read_result(job)
    assert record is not None
    assert (record.error, record.micro_batches) == ("the loss became nan", 4)


def test_a_trial_that_never_fits_fails_alone_and_says_what_to_do(job, monkeypatch):
    assert run_with(job, monkeypatch, MemoryError()) == []
    record = worker.read_result(job)
    assert record is not None
    assert (record.status, record.micro_batches) == ("FAILED", 32)
    assert "out of memory, even with batches trained in 32 parts" in (record.error or "")
    assert "batch_size" in (record.error or "")


def test_controls_and_fronts_are_split_too(job):
    control = ControlConfig(kind="uniform", trial=job.config)
    front = AnnealedConfig(trial=job.config, further=())
    for config in (control, front):
        smaller = in_smaller_parts(dataclasses.replace(job, config=config))
        assert smaller is not None
        assert type(smaller.config) is type(config)
        assert smaller.trial.optimizer.micro_batches == 2


def test_a_lost_worker_leaves_the_trial_to_be_started_again(job, monkeypatch):
    with pytest.raises(WorkerLostError):
        run_with(job, monkeypatch, WorkerLostError("gone"))
    assert worker.read_result(job) is None


def test_an_ended_trial_is_not_run_again(job, monkeypatch):
    worker.write_result(job, worker.pruned(job))
    assert run_with(job, monkeypatch, AssertionError("ran again")) == []
    record = worker.read_result(job)
    assert record is not None
    assert record.status == "PRUNED"


def test_results_of_earlier_versions_are_read(job):
    worker.write_result(job, worker.failed(job, "lost"))
    path = job.folder / worker.RESULT_FILE
    document = json.loads(path.read_text())
    for name in ("training_macs", "control", "search_seconds", "cpu_seconds", "price"):
        del document[name]
    path.write_text(json.dumps(document))
    assert worker.read_result(job) == worker.failed(job, "lost")


def test_a_control_fails_as_a_trial_does_and_says_what_it_is(job):
    few = dataclasses.replace(job.config.data, train_images=100, test_images=50)
    training = SupernetTraining(
        data=few, supernet=job.config.supernet, pretrain=PretrainConfig(epochs=1)
    )
    train_supernet(training, job.supernet_folder)
    wild = OptimizerConfig(learning_rate=1e30, warmup_epochs=0)
    trial = dataclasses.replace(job.config, data=few, optimizer=wild)
    config = ControlConfig(kind="uniform", trial=trial)
    control = dataclasses.replace(job, config=config, trial_id="control-uniform-b0.5")
    assert (job.control, control.control) == (None, "uniform")
    worker.run_trial_job(control, print)
    record = worker.read_result(control)
    assert record is not None
    assert (record.status, record.control) == ("FAILED", "uniform")
    assert "the loss became" in (record.error or "")


def test_a_record_survives_the_file(job):
    record = worker.failed(job, "lost")
    worker.write_result(job, record)
    assert worker.read_result(job) == record


def test_a_supernet_that_diverges_does_not_ask_for_the_same_again():
    diverged = worker.supernet_error(DivergenceError("the loss became nan; lower the rate"))
    assert not isinstance(diverged, SweepStoppedError)
    assert str(diverged).startswith("supernet: the loss became nan; lower the rate in a sweep of")
    assert isinstance(worker.supernet_error(DataError("no images")), SweepStoppedError)


def test_a_task_that_fails_does_not_ask_for_the_same_again(job, monkeypatch):
    error = TaskError("task import:a:B: loss failed: KeyError: 'x'")
    told = worker.supernet_error(error)
    assert (str(told), type(told)) == (str(error), UserError)
    assert run_with(job, monkeypatch, error) == []
    assert worker.read_result(job).error == str(error)
    assert "Traceback" in (job.folder / "error.txt").read_text()
