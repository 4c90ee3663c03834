from __future__ import annotations

import pytest

from orchestrator.config import SweepConfig
from orchestrator.plan_notes import plan_notes


@pytest.fixture(autouse=True)
def _no_store(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def noted(**sections) -> dict[str, str]:
    document = {
        "name": "n",
        "data": {"name": "digits"},
        "supernet": {"name": "repvgg_tiny"},
        "budget": {"limits": [0.5]},
        "strengths": [10],
    }
    config = SweepConfig.model_validate(document | sections)
    return {note["setting"]: note["reason"] for note in plan_notes(config, config.check_task())}


def test_what_is_used_is_not_told():
    tuned = {"label_smoothing": {"low": 0.0, "high": 0.2}}
    assert noted(hyperparameters=tuned, scheduler={"name": "asha", "grace_epochs": 29}) == {}
    assert noted(scheduler={"grace_epochs": 100}) == {}  # of none


def test_a_hyperparameter_that_the_task_does_not_use_is_told():
    notes = noted(
        task="image_translation",
        data={"name": "paired", "root": "pairs", "image_size": 64},
        hyperparameters={
            "label_smoothing": {"low": 0.0, "high": 0.2},
            "learning_rate": {"low": 0.01, "high": 0.1},
        },
    )
    assert notes == {"hyperparameters.label_smoothing": "task image_translation does not use it"}


def test_a_scheduler_that_can_stop_nothing_is_told():
    scheduler = {"name": "median", "grace_epochs": 4}
    ((setting, reason),) = noted(scheduler=scheduler, finetune={"epochs": 4}).items()
    assert setting == "scheduler.name median"
    assert "grace_epochs is 4, finetune.epochs 4" in reason
    assert not noted(scheduler=scheduler, finetune={"epochs": 5})


def test_a_store_that_only_the_environment_names_is_told(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert list(noted()) == ["MLFLOW_TRACKING_URI"]
    assert noted(tracking={"uri": "http://mlflow:5000"}) == {}
