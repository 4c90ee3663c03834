"""Controls in real sweeps on digits: beside the trials, never among them."""

from __future__ import annotations

import json
import os
import signal
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import torch
from mlflow import MlflowClient
from tracked_sweeps import load_records

from deploy import deployed_network, load_package
from orchestrator.home import Home
from pas_trainer import DataConfig, open_sources

pytestmark = pytest.mark.slow

# So short a fine-tuning that the uniform networks, trained for longer, are the better ones.
SWEEP = """
name: tiny
data: {name: digits, validation: 0.25}
supernet: {name: repvgg_tiny, options: {width: 0.5}}
budget: {limits: [0.5, 0.25]}
strengths: [0]
optimizer: {batch_size: 64}
pretrain: {epochs: 6}
search: {epochs: 2, batch_size: 64}
finetune: {epochs: 1, recalibration_batches: 1}
resources: {max_concurrent_trials: 1}
"""
CONTROLS = ["control-supernet", "control-uniform-b0.25", "control-uniform-b0.5"]


def times(pas, trial_id="*"):
    return {p: p.stat().st_mtime_ns for p in pas.home.glob(f"sweeps/*/trials/{trial_id}/*")}


@pytest.fixture(scope="module")
def controlled(tmp_path_factory, make_pas):
    """A sweep that ran without controls, and again with them."""
    pas = make_pas(tmp_path_factory.mktemp("controlled"))
    pas.file.write_text(SWEEP)
    first = pas.json("sweep", str(pas.file))
    before = times(pas)
    pas.file.write_text(SWEEP + "controls: [supernet, uniform]\n")
    second = pas.json("sweep", str(pas.file))
    return SimpleNamespace(pas=pas, first=first, second=second, before=before)


def test_adding_controls_runs_just_the_controls(controlled):
    assert controlled.first["controls"] == []
    assert controlled.second["sweep_id"] == controlled.first["sweep_id"]
    assert controlled.second["trials"] == controlled.first["trials"]
    assert {p: p.stat().st_mtime_ns for p in controlled.before} == controlled.before
    assert sorted(c["trial_id"] for c in controlled.second["controls"]) == CONTROLS
    assert {c["status"] for c in controlled.second["controls"]} == {"FINISHED"}
    now = times(controlled.pas)
    again = controlled.pas.json("sweep", str(controlled.pas.file))
    assert again["controls"] == controlled.second["controls"]
    assert times(controlled.pas) == now


def test_controls_have_the_compute_of_trials(controlled):
    trials = {t["budget"]: t for t in controlled.second["trials"]}
    controls = {c["trial_id"]: c for c in controlled.second["controls"]}
    for budget, trial in trials.items():
        uniform = controls[f"control-uniform-b{budget:g}"]
        assert (uniform["control"], uniform["budget"]) == ("uniform", budget)
        assert 0.97 * budget <= uniform["macs_ratio"] <= budget
        assert uniform["training_macs"] == pytest.approx(trial["training_macs"], rel=0.05)
    supernet = controls["control-supernet"]
    assert (supernet["macs_ratio"], supernet["budget"]) == (1.0, 0.5)
    epoch = supernet["training_macs"] / (6 + 2)
    assert supernet["training_macs"] <= trials[0.5]["training_macs"] + epoch * 0.01
    assert supernet["training_macs"] == pytest.approx(trials[0.5]["training_macs"], abs=epoch)


def test_the_front_and_promotion_leave_controls_out(controlled):
    trials, controls = controlled.second["trials"], controlled.second["controls"]
    best = max(trials, key=lambda t: t["accuracy"])
    within = [c for c in controls if c["macs_ratio"] <= 0.5]
    assert max(c["accuracy"] for c in within) > best["accuracy"]
    front = controlled.pas.json("pareto", "tiny")
    assert {t["control"] for t in front["trials"]} == {None}
    assert sorted(c["trial_id"] for c in front["controls"]) == CONTROLS
    assert not any(c["on_front"] for c in front["controls"])
    promoted = controlled.pas.json("promote", "tiny", "--budget", "0.5", "--model", "m")
    assert promoted["trial"]["trial_id"] == best["trial_id"]


def test_tables_show_controls(controlled):
    accuracies = [f"{c['accuracy']:.4f}" for c in controlled.second["controls"]]
    for command in ("compare", "pareto", "status"):
        shown = controlled.pas.here(command, "tiny").stdout
        assert "control" in shown
        assert all(accuracy in shown for accuracy in accuracies), command
    status = controlled.pas.json("status", "tiny")
    assert sorted(c["trial_id"] for c in status["controls"]) == CONTROLS
    plan = controlled.pas.json("sweep", str(controlled.pas.file), "--dry-run")
    assert (plan["num_trials"], plan["num_controls"]) == (2, 3)
    assert sorted(plan["controls"]) == CONTROLS


def test_tracking_knows_them_as_controls_and_optuna_not_at_all(controlled):
    home = Home(controlled.pas.home)
    client = MlflowClient(home.mlflow_uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "tiny"]
    runs = client.search_runs([experiment.experiment_id], "tags.`pas.control` LIKE '%'")
    assert {r.data.tags["pas.trial_id"] for r in runs} == set(CONTROLS)
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert all(r.info.run_name.startswith("control ") for r in runs)
    assert all(r.data.metrics["training_macs"] > 0 for r in runs)
    assert len(controlled.second["controls"]) == len(CONTROLS)
    read = {r.trial_id: r for r in load_records(home.mlflow_uri, "tiny")}
    for control in controlled.second["controls"]:
        stored = read[control["trial_id"]].to_json()
        assert {**stored, "run_id": None} == control
    names, storage = optuna.get_all_study_names(home.optuna_url), home.optuna_url
    studies = [optuna.load_study(study_name=name, storage=storage) for name in names]
    assert [len(study.trials) for study in studies] == [1, 1]


def test_packages_of_controls_classify_as_they_measured(controlled):
    test = open_sources(DataConfig(name="digits", validation=0.25)).test
    images = np.stack([np.asarray(i, np.float32).transpose(2, 0, 1) for i in test.images]) / 255
    assert len(controlled.second["controls"]) == len(CONTROLS)
    for control in controlled.second["controls"]:
        folder = Home(controlled.pas.home).trial(control["sweep_id"], control["trial_id"])
        network = deployed_network(*load_package(folder))
        with torch.no_grad():
            predicted = network(torch.from_numpy(images)).argmax(dim=1)
        accuracy = (predicted == torch.tensor(test.labels)).double().mean().item()
        assert accuracy == pytest.approx(control["test_accuracy"], abs=1e-9)


def test_a_killed_control_goes_on_and_ends_as_if_undisturbed(controlled, pas):
    pas.file.write_text(SWEEP + "controls: [supernet, uniform]\n")
    early_stopping = ("--set", "scheduler={name: asha, grace_epochs: 1}")
    words = "control-uniform-b0.5: control 3/"
    driver = pas.start_until(words, "sweep", str(pas.file), *early_stopping)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    done = pas.here("sweep", str(pas.file), *early_stopping)
    assert done.returncode == 0, done.stderr
    resumed = [line for line in done.stderr.splitlines() if "uniform-b0.5: control " in line]
    assert "control 1/" not in resumed[0]
    for control in controlled.second["controls"]:
        (path,) = pas.home.glob(f"sweeps/*/trials/{control['trial_id']}/result.json")
        result = json.loads(path.read_text())
        same = ("status", "accuracy", "test_accuracy", "widths", "training_macs")
        assert [result[k] for k in same] == [control[k] for k in same]
