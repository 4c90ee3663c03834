"""What runs on a worker: a trial or control, from job to files in its folder. Knows no Ray."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from deploy import content_hash, median_pass_ms, save_package
from orchestrator.accounting import booked
from orchestrator.cells import Report, Train, TrialJob
from orchestrator.errors import SweepStoppedError, UserError, WorkerLostError, printable
from orchestrator.home import RESULT_FILE, STATE_FILES, TRIAL_FILE, write_json
from orchestrator.memory import (
    free_memory,
    in_smaller_parts,
    is_out_of_memory,
    keep_imports_out_of_gc,
)
from orchestrator.node_files import ERROR_FILE, on_node, with_inputs
from orchestrator.node_resources import check_gpu
from orchestrator.records import TrialRecord, TrialStatus, parse_trial
from orchestrator.staged_data import bring_data
from pas_trainer import (
    AboutArchitecture,
    AnnealedConfig,
    ControlConfig,
    DataError,
    DivergenceError,
    EpochReport,
    TaskError,
    TrialResult,
    is_first,
    make_task,
    run_annealed,
    run_control,
    run_search,
)

PROGRESS_KEYS = ("phase", "epoch", "num_epochs", "loss", "score", "macs_ratio", "seconds")
"""What a worker reports after each epoch, beside ``step``, the index in :attr:`TrialJob.steps`;
``gain``, the score so that more is better; and, as pairs of name and value, ``widths`` and
``metrics``. There may be many of those, and Tune would keep statistics of each entry of a mapping,
as it does of the few ``seconds``."""


def train_job(job: TrialJob, report: Report) -> None:
    """Train what the job asks for and write each result as soon as it is known.

    Args:
        job: its folder on this node, or seen by all.
        report: called with :data:`PROGRESS_KEYS` after each epoch.

    Raises:
        DataError: torch does not find the GPU that was booked.
        Exception: what :func:`pas_trainer.run_search` and the like raise.
    """

    metric = make_task(job.trial.task).metric

    def on_epoch(step: int, epoch: EpochReport) -> None:
        told = {key: getattr(epoch, key) for key in PROGRESS_KEYS}
        told["gain"] = epoch.score if metric.higher_is_better else -epoch.score
        pairs = {name: list(getattr(epoch, name).items()) for name in ("widths", "metrics")}
        report({"step": step, **told, **pairs})

    def found(step: int, result: TrialResult) -> None:
        if is_first() and read_result(job.steps[step]) is None:
            write_result(job.steps[step], _finished(job.steps[step], result))

    check_gpu(job.trial.device, job.gpus)
    bring_data(job.data, job.data_version)
    job = with_inputs(job)
    config, supernet, folder = job.config, job.supernet_folder, job.folder
    if is_first():
        write_json(folder / TRIAL_FILE, started(job).to_json())
    if isinstance(config, AnnealedConfig):
        run_annealed(config, supernet, found, report=on_epoch, checkpoint_folder=folder)
        return
    on_own_epoch = partial(on_epoch, 0)
    if isinstance(config, ControlConfig):
        result = run_control(config, supernet, report=on_own_epoch, checkpoint_folder=folder)
    else:
        result = run_search(config, supernet, report=on_own_epoch, checkpoint_folder=folder)
    found(0, result)


def run_trial_job(job: TrialJob, report: Report, train: Train = train_job) -> None:
    """Run one trial and leave its outcome in ``job.folder``, or where the job's storage is.

    A trial that diverges, or fails in a way of its own, is recorded as FAILED and returns
    normally. One that runs out of memory starts anew in smaller parts
    (``optimizer.micro_batches``), as long as parts can be halved. What would fail every other
    trial too (unusable images, a full disk) is reported as ``{"stop_sweep": sentence}``; the trial
    then has no result and is resumed later.

    Raises:
        WorkerLostError: of several workers one was lost; the trial is to be started once more.
    """
    torch.set_num_threads(job.num_threads)
    keep_imports_out_of_gc()
    try:
        on_node(job, report, partial(_run, train=train))
    except (DataError, OSError) as error:  # the store refuses, or the node's disk is full
        report({"stop_sweep": stopping_sentence(error)})


def _run(job: TrialJob, report: Report, train: Train) -> None:
    """Train a job, in smaller parts if need be."""
    if (job.folder / RESULT_FILE).exists():
        return
    smaller: TrialJob | None = job
    while smaller is not None:
        job, smaller = smaller, _attempt(smaller, report, train)
        free_memory()


def _attempt(job: TrialJob, report: Report, train: Train) -> TrialJob | None:
    """Train a job; return the one to try instead, if it ran out of memory."""
    try:
        train(job, report)
    except WorkerLostError:
        raise  # not the trial's fault
    except (DataError, OSError) as error:
        report({"stop_sweep": stopping_sentence(error)})
    except DivergenceError as error:
        _fail(job, str(error))
    except Exception as error:
        if is_out_of_memory(error):
            if (smaller := in_smaller_parts(job)) is not None:
                return smaller
            _fail(job, _OUT_OF_MEMORY.format(parts=job.trial.optimizer.micro_batches))
            return None
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / ERROR_FILE).write_text(printable(traceback.format_exc()))
        told = str(error) if isinstance(error, TaskError) else f"{type(error).__name__}: {error}"
        _fail(job, told)
    return None


_OUT_OF_MEMORY = (
    "out of memory, even with batches trained in {parts} parts; lower optimizer.batch_size, "
    "data.image_size or the trials that share a device (resources)"
)


def _fail(job: TrialJob, sentence: str) -> None:
    end_rest(job, lambda step: failed(step, printable(sentence)))


def end_rest(job: TrialJob, ended: Callable[[TrialJob], TrialRecord]) -> list[TrialJob]:
    """Write a result for every step of a job that has none, and return those steps."""
    left = [step for step in job.steps if read_result(step) is None]
    for step in left:
        write_result(step, ended(step))
    return left


def stopping_sentence(error: Exception) -> str:
    """Return one sentence for an error that every trial would meet."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full ({error.filename or 'home folder'}); make room and run again"
    return printable(str(error))


def supernet_error(error: Exception) -> UserError:
    """Return what ends a sweep whose supernet could not be trained."""
    if isinstance(error, DivergenceError):
        return UserError(
            f"supernet: {error} in a sweep of another name, or with --new; with these settings it "
            "diverges again"
        )
    if isinstance(error, TaskError):
        return UserError(str(error))
    return SweepStoppedError(f"supernet: {stopping_sentence(error)}")


def write_result(job: TrialJob, record: TrialRecord) -> None:
    """Write the result and drop the states that are no longer needed."""
    write_json(job.folder / RESULT_FILE, record.to_json())
    for name in STATE_FILES:
        (job.folder / name).unlink(missing_ok=True)


def read_result(job: TrialJob) -> TrialRecord | None:
    """Return the record of an ended trial, or ``None`` while it has none.

    Raises:
        UserError: its file is damaged.
    """
    path = job.folder / RESULT_FILE
    return parse_trial(path.read_bytes(), str(path)) if path.exists() else None


def left_records(sweep: Path, known: Collection[str]) -> Iterator[TrialRecord]:
    """Give what trials have left in a sweep's folder, of trials whose ids are not known."""
    for folder in sorted((sweep / "trials").glob("*")):
        if folder.name in known:
            continue
        found = [path for name in (RESULT_FILE, TRIAL_FILE) if (path := folder / name).exists()]
        if found:
            yield parse_trial(found[0].read_bytes(), str(found[0]))


def started(job: TrialJob) -> TrialRecord:
    """Return the record of a trial that is about to run."""
    return _ended(job, "RUNNING")


def failed(job: TrialJob, sentence: str) -> TrialRecord:
    """Return the record of a trial that cannot go on."""
    return _ended(job, "FAILED", error=sentence)


def pruned(job: TrialJob, **compute: int) -> TrialRecord:
    """Return the record of a trial that was stopped early, with what it took and saved."""
    return _ended(job, "PRUNED", **compute)


def _finished(job: TrialJob, result: TrialResult) -> TrialRecord:
    """Write the package, measure the latency, return the record."""
    architecture = result.architecture
    save_package(job.folder, architecture, result.network, result.training_network)
    for phase, picture in result.previews.items():
        Image.fromarray(picture).save(job.folder / f"preview_{phase}.jpg", quality=85)
    example = make_task(job.trial.task).example(AboutArchitecture(architecture))
    latency_ms = median_pass_ms(result.network, example)
    return _ended(
        job,
        "FINISHED",
        macs=result.macs,
        macs_ratio=result.macs_ratio,
        num_params=result.num_params,
        activation_bytes=result.activation_bytes,
        latency_ms=latency_ms,
        predicted_latency_ms=result.predicted_latency_ms,
        training_macs=result.training_macs,
        score=result.score,
        test_score=result.test_score,
        metrics=_further(result, make_task(job.trial.task).metric.name),
        widths=dict(result.widths),
        content_hash=content_hash(job.folder),
        **booked(result.seconds, job.cpus, job.gpus),
    )


def _ended(job: TrialJob, status: TrialStatus, **results: Any) -> TrialRecord:
    metric = make_task(job.trial.task).metric
    return TrialRecord(
        trial_id=job.trial_id,
        sweep_id=job.sweep_id,
        status=status,
        budget=job.cell.budget,
        strength=job.cell.strength,
        number=job.number,
        control=job.control,
        hyperparameters=dict(job.hyperparameters),
        micro_batches=job.trial.optimizer.micro_batches,
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        **results,
    )


def _further(result: TrialResult, metric: str) -> dict[str, float]:
    """Return the figures of a result beside its scores."""
    of_test = {f"test_{name}": value for name, value in result.test_metrics.items()}
    known = {metric, f"test_{metric}"}
    return {n: v for n, v in {**result.metrics, **of_test}.items() if n not in known}
