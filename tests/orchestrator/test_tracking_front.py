"""Networks of the front as logged models of MLflow."""

from __future__ import annotations

import dataclasses

from mlflow import MlflowClient
from tracked_sweeps import SWEEP, assert_clean, run_trial, running, tracker

from orchestrator.tracking_data import data_input
from orchestrator.tracking_reader import find_sweep
from orchestrator.tracking_server import open_client
from pas_trainer import DataConfig


def front_models(tracking_uri):
    """Trial id -> logged model, of all of the sweep's."""
    models = open_client(tracking_uri).search_logged_models(
        [find_sweep(tracking_uri, SWEEP).experiment_id]
    )
    assert len({model.source_run_id for model in models}) == len(models)
    return {model.tags["pas.trial_id"]: model for model in models}


def on_front(models):
    return {trial_id: model.tags["pas.on_front"] for trial_id, model in models.items()}


def test_networks_of_the_front_become_models_once_and_say_when_they_are_beaten(tracking_uri):
    data = data_input(DataConfig(name="digits"), "0123456789abcdef", {"train": 100})
    sweep = tracker(tracking_uri, data=data)
    done = [run_trial(sweep, running(n)) for n in range(2)]  # each dearer and better
    beaten = dataclasses.replace(done[0], trial_id="b0.5-s10-2", number=2, score=0.1)
    sweep.trial_finished(beaten, {})
    sweep.update_front([*done, beaten], "macs", 23e9)
    sweep.close("KILLED")
    assert front_models(tracking_uri) == {}  # what is on the front is decided at the end

    for _ in range(2):
        sweep = tracker(tracking_uri, data=data)
        sweep.update_front([*done, beaten], "macs", 23e9)
        sweep.close("FINISHED")
    models = front_models(tracking_uri)
    assert on_front(models) == {"b0.5-s10-0": "true", "b0.5-s10-1": "true"}
    client, runs = assert_clean(tracking_uri, ["b0.5-s10-0", "b0.5-s10-1", "b0.5-s10-2"])
    model, run = models["b0.5-s10-1"], runs["b0.5-s10-1"]
    assert (model.name, str(model.status)) == ("b0_5-s10-1", "READY")
    assert (model.source_run_id, model.params) == (run.info.run_id, run.data.params)
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    values = {metric.key: metric.value for metric in model.metrics}
    assert (values["accuracy"], values["macs"]) == (done[1].score, done[1].macs)
    assert {metric.dataset_digest for metric in model.metrics} == {"0123456789abcdef"}
    assert "loss" not in values
    files = client.list_logged_model_artifacts(model.model_id)
    assert [file.path for file in files] == ["MLmodel"]

    sweep = tracker(tracking_uri, data=data)  # as pas extend: a better trial
    best = dataclasses.replace(done[0], trial_id="b0.5-s10-3", number=3, score=0.99)
    sweep.trial_finished(best, {})
    sweep.update_front([*done, beaten, best], "macs", 23e9)
    sweep.close("FINISHED")
    expected = {"b0.5-s10-0": "false", "b0.5-s10-1": "false", "b0.5-s10-3": "true"}
    assert on_front(front_models(tracking_uri)) == expected
    _, runs = assert_clean(tracking_uri, [*expected, "b0.5-s10-2"])
    tags = {trial_id: run.data.tags.get("pas.on_front") for trial_id, run in runs.items()}
    assert tags == {**expected, "b0.5-s10-2": None}


def test_a_model_that_was_half_written_is_completed(tracking_uri, monkeypatch):
    sweep = tracker(tracking_uri)
    done = run_trial(sweep, running(0))
    sweep.update_front([done], "macs", 23e9)
    failures = iter([OSError("connection lost")] * 2)

    def breaks(self, run_id, models):
        if error := next(failures, None):
            raise error
        return log_outputs(self, run_id, models)

    log_outputs = MlflowClient.log_outputs
    monkeypatch.setattr(MlflowClient, "log_outputs", breaks)
    sweep.close("FINISHED")
    (model,) = front_models(tracking_uri).values()
    assert str(model.status) == "READY"
    _, runs = assert_clean(tracking_uri, [done.trial_id])
    assert len(runs[done.trial_id].outputs.model_outputs) == 1
    assert find_sweep(tracking_uri, SWEEP).status == "FINISHED"
