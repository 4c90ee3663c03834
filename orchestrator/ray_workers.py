"""One trial on several workers, through Ray Train. Used only where a trial asks for several.

Starting the workers takes seconds per trial; a single worker is the Tune trial itself.
"""

from __future__ import annotations

import shutil
from typing import Any

from orchestrator.cells import TrialJob
from orchestrator.config import ResourceConfig
from orchestrator.worker import train_job
from pas_trainer import DataError, DivergenceError


def train_on_workers(job: TrialJob, resources: ResourceConfig) -> None:
    """Train what a job asks for on as many workers as a trial has, from within a Tune trial.

    The reports of the first worker reach Tune by themselves.

    Args:
        job: see :func:`orchestrator.worker.train_job`.
        resources: of the trial; each worker has an equal share.

    Raises:
        Exception: what the first worker that failed raised.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import WorkerGroupError
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
        raise _cause(error.worker_failures) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _cause(failures: dict[int, Exception]) -> Exception:
    """Return what ended the workers: when one fails, the others fail of missing it."""
    by_rank = [failures[rank] for rank in sorted(failures)]
    known = (DataError, DivergenceError, OSError, ValueError)
    return next((error for error in by_rank if isinstance(error, known)), by_rank[0])


def _train(config: dict[str, Any]) -> None:
    """Run on every worker."""
    import torch
    from ray import train

    job: TrialJob = config["job"]
    torch.set_num_threads(job.num_threads)
    train_job(job, train.report)
