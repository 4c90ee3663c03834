"""Ray: the session, and the supernet's training as one actor on the cluster."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# Read by Ray when a session or a Tune run starts.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a stop report has no score
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "600")  # our own records are what resumes

import ray

from orchestrator.addresses import LOCKED, is_own
from orchestrator.errors import SweepStoppedError, UserError
from orchestrator.memory import is_out_of_memory
from orchestrator.node_files import supernet_on_node
from orchestrator.node_resources import check_gpu, worker_threads
from orchestrator.ray_room import nodes, workers_on
from orchestrator.sections import ResourceConfig
from orchestrator.staged_data import bring_data
from orchestrator.submission import NEVER_SENT
from orchestrator.worker import supernet_error
from pas_trainer import (
    DataError,
    DivergenceError,
    EpochReport,
    SupernetResult,
    SupernetTraining,
    TaskError,
    WeightsError,
)


@contextlib.contextmanager
def ray_session(address: str | None, code: Sequence[str] = (), **size: int) -> Iterator[None]:
    """Connect to a cluster, or start a local one.

    Args:
        address: of the cluster; ``None``: a local one.
        code: folders of packages that travel to every worker.
        size: of a local one, as ``ray.init`` takes it: ``num_cpus``, ``object_store_memory``.

    Raises:
        UserError: the cluster cannot be reached.
    """
    try:
        ray.init(
            address=address or "local",
            include_dashboard=False if is_own(address) else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
            runtime_env={"py_modules": list(code), "excludes": NEVER_SENT} if code else None,
            **size,
        )
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(unreachable(address, error)) from None
    try:
        yield
    finally:
        gc.collect()  # a handle that is freed while Ray shuts down would end the process
        ray.shutdown()


def unreachable(address: str | None, error: Exception) -> str:
    """Return in one sentence why no Ray cluster can be used, and the way out."""
    if isinstance(error, ray.exceptions.AuthenticationError):
        return LOCKED.format(address=address)
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    sentence = f"cannot reach a Ray cluster at {address or 'local'}: {first}"
    if address is None:
        return sentence
    return (
        f"{sentence}. Is one running, of Ray {ray.__version__}? If it wants a token: set "
        "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or the file ~/.ray/auth_token to it"
    )


class _SupernetActor:
    """Trains the supernet in one thread and tells its progress from another."""

    def __init__(self) -> None:
        self._reports: list[EpochReport] = []

    def train(
        self,
        config: SupernetTraining,
        folder: Path,
        num_threads: int,
        booked_gpus: float,
        data_version: str,
        storage: str | None,
    ) -> SupernetResult:
        import torch

        from pas_trainer import train_supernet

        torch.set_num_threads(num_threads)
        check_gpu(config.device, booked_gpus)
        bring_data(config.data, data_version)
        with supernet_on_node(storage, folder) as (here, push):

            def report(epoch: EpochReport) -> None:
                push()
                self._reports.append(epoch)

            return train_supernet(config, here, report)

    def reports(self) -> list[EpochReport]:
        return list(self._reports)


_RemoteSupernetActor = ray.remote(max_restarts=2, max_task_retries=2, max_concurrency=2)(
    _SupernetActor
)


_OUT_OF_MEMORY = (
    "supernet: out of memory; raise optimizer.micro_batches or lower optimizer.batch_size or "
    "data.image_size"
)


def supernet_booking(resources: ResourceConfig) -> tuple[float, float]:
    """Return the CPUs and GPUs that the supernet's training books on the connected cluster."""
    cpus = [node.get("CPU", 0) for node in nodes() if workers_on(node, resources)]
    largest = max(cpus, default=0)
    return max(resources.per_worker["CPU"], min(8.0, largest)), resources.per_worker["GPU"]


def train_supernet_on_cluster(
    config: SupernetTraining,
    folder: Path,
    resources: ResourceConfig,
    show: Callable[[EpochReport], None],
    data_version: str = "",
    storage: str | None = None,
) -> SupernetResult:
    """Train the supernet as one actor on the cluster; ``show`` is called with each report.

    Args:
        config: what the supernet depends on.
        folder: where it is kept.
        resources: of a trial.
        show: called with each report.
        data_version: content of images that are staged on the actor's node; else empty.
        storage: address of the object store that keeps it, if nodes do not share the folder.

    Raises:
        SweepStoppedError: the images or the recipe cannot be used; resumable.
    """
    num_cpus, num_gpus = supernet_booking(resources)
    actor = _RemoteSupernetActor.options(num_cpus=num_cpus, num_gpus=num_gpus).remote()
    threads = worker_threads(num_cpus)
    result = actor.train.remote(config, folder, threads, num_gpus, data_version, storage)
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
        if is_out_of_memory(cause):
            raise SweepStoppedError(_OUT_OF_MEMORY) from None
        if isinstance(cause, DataError | WeightsError | DivergenceError | TaskError | OSError):
            raise supernet_error(cause) from None
        raise SweepStoppedError(f"supernet: {type(cause).__name__}: {cause}") from error
    except ray.exceptions.OutOfMemoryError:  # of the node, whose monitor killed the worker
        raise SweepStoppedError(_OUT_OF_MEMORY) from None
    except ray.exceptions.RayActorError:
        raise SweepStoppedError(
            "the worker that trained the supernet died three times; see Ray's logs, "
            "then run the same command to go on from its last epoch"
        ) from None
    except ray.exceptions.RayError as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SweepStoppedError(f"supernet: its worker cannot be had: {first}") from None
    finally:
        ray.kill(actor)
