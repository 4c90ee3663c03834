"""What a sweep named ``tiny`` has left in the stores of its home folder."""

from __future__ import annotations

import optuna
from mlflow import MlflowClient


def runs_of(pas):
    client = MlflowClient(f"sqlite:///{pas.home / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "tiny"]
    runs = client.search_runs([experiment.experiment_id])
    trials = [r for r in runs if "pas.trial_id" in r.data.tags]
    (sweep,) = [r for r in runs if r not in trials]
    return client, sweep, trials


def optuna_trials(pas):
    storage = f"sqlite:///{pas.home / 'optuna.db'}"
    names = optuna.get_all_study_names(storage)
    studies = [optuna.load_study(study_name=n, storage=storage) for n in names]
    return [trial for study in studies for trial in study.trials]
