"""One trial on several workers, through Ray Train. Used only where a trial asks for several.

Starting the workers takes seconds per trial; a single worker is the Tune trial itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from orchestrator.cells import TrialJob
from orchestrator.errors import WorkerLostError
from orchestrator.node_files import on_node, pull_trial
from orchestrator.sections import ResourceConfig
from orchestrator.worker import train_job


def train_on_workers(job: TrialJob, resources: ResourceConfig) -> None:
    """Train what a job asks for on as many workers as a trial has, from within a Tune trial.

    The reports of the first worker reach Tune by themselves.

    Args:
        job: see :func:`orchestrator.worker.train_job`.
        resources: of the trial; each worker has an equal share.

    Raises:
        WorkerLostError: a worker or its node is gone.
        Exception: what the first worker that failed raised.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
    from ray.tune.integration.ray_train import TuneReportCallback

    folder = job.folder / "train"  # Ray's own files
    trainer = TorchTrainer(
        _train,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=resources.workers_per_trial,
            use_gpu=resources.gpus_per_trial > 0,
            resources_per_worker=resources.per_worker,
        ),
        run_config=RunConfig(
            name=job.trial_id,
            storage_path=str(folder),
            callbacks=[TuneReportCallback()],
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        raise cause_of(error.worker_failures) from None
    except ControllerError as error:
        raise WorkerLostError(str(error)) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        pull_trial(job)  # what the first worker has left of the job's steps


def cause_of(failures: Mapping[int, Exception]) -> Exception:
    """Return what ended the workers: when one fails, the others fail of missing it.

    Args:
        failures: what each worker that failed raised, by rank; Ray's own errors for lost ones.
    """
    by_rank = [failures[rank] for rank in sorted(failures)]
    own = [error for error in by_rank if not _is_loss(error)]
    return own[0] if own else WorkerLostError(str(by_rank[0]))


def _is_loss(error: Exception) -> bool:
    """Whether an error says that another worker, or this one, is gone."""
    from ray.exceptions import RayError
    from ray.train.v2._internal.exceptions import RayTrainError
    from torch.distributed import DistError

    if isinstance(error, RayError | RayTrainError | DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error)


def _train(config: dict[str, Any]) -> None:
    """Run on every worker."""
    import torch
    from ray import train

    job: TrialJob = config["job"]
    torch.set_num_threads(job.num_threads)
    on_node(job, train.report, train_job)
