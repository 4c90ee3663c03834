"""Ray Tune as its users run it: a function, and its own callback for MLflow."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import time
from pathlib import Path
from typing import Any


def tune_with_mlflow(count: int, folder: Path, *, reuse_actors: bool) -> float:
    """Run trials that report one accuracy; return the seconds from first to last record in MLflow.

    Args:
        count: trials.
        folder: for Ray's files and MLflow's database.
        reuse_actors: Tune's setting: whether a worker takes one trial after the other.
    """
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    folder.mkdir()
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    callback = MLflowLoggerCallback(tracking_uri=uri, experiment_name="rival")
    tuner = tune.Tuner(
        tune.with_resources(_report_once, {"cpu": 1}),
        param_space={"learning_rate": tune.loguniform(0.02, 0.2)},
        tune_config=tune.TuneConfig(num_samples=count, reuse_actors=reuse_actors),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0, callbacks=[callback]),
    )
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        with Path(os.devnull).open("w") as sink, contextlib.redirect_stdout(sink):
            start = time.monotonic()
            results = tuner.fit()
        seconds = time.monotonic() - start
    finally:
        ray.shutdown()
    assert len(results) == count
    return seconds


def _report_once(config: dict[str, Any]) -> None:
    from ray import tune

    tune.report({"accuracy": random.random(), "loss": config["learning_rate"]})  # noqa: S311
