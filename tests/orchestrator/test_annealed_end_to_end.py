"""Annealed budgets in real sweeps on digits: one job finds a front, every network its record."""

from __future__ import annotations

import itertools
import json
import os
import signal
from statistics import mean

import optuna
import pytest
from mlflow import MlflowClient
from tracked_sweeps import load_records

from orchestrator.home import Home

pytestmark = pytest.mark.slow

SWEEP = """
name: tiny
data: {name: digits, validation: 0.25}
supernet: {name: repvgg_tiny, options: {width: 0.5}}
budget: {limits: [0.25, 0.6, 0.4], schedule: annealed}
strengths: [10]
trials_per_cell: 2
optimizer: {batch_size: 64}
pretrain: {epochs: 4}
search: {epochs: 3, batch_size: 64}
finetune: {epochs: 2, recalibration_batches: 2}
resources: {max_concurrent_trials: 1}
hyperparameters:
  learning_rate: {low: 0.03, high: 0.1, log: true}
"""
LIMITS = (0.6, 0.4, 0.25)
IDS = [f"b{limit}-s10-{number}" for limit in LIMITS for number in (0, 1)]


def by_id(trial):
    return trial["trial_id"]


@pytest.fixture(scope="module")
def annealed(tmp_path_factory, make_pas):
    pas = make_pas(tmp_path_factory.mktemp("annealed"))
    pas.file.write_text(SWEEP)
    return pas, pas.json("sweep", str(pas.file))


def test_every_budget_of_every_front_has_its_record(annealed):
    _, outcome = annealed
    trials = {t["trial_id"]: t for t in outcome["trials"]}
    assert sorted(trials) == sorted(IDS)
    for trial in trials.values():
        assert trial["status"] == "FINISHED"
        assert 0.97 * trial["budget"] <= trial["macs_ratio"] <= trial["budget"]
    for number in (0, 1):
        front = [trials[f"b{limit}-s10-{number}"] for limit in LIMITS]
        spent = [t["training_macs"] for t in front]
        assert spent == sorted(spent)
        assert len({str(t["hyperparameters"]) for t in front}) == 1
        for looser, tighter in itertools.pairwise(front):
            assert all(tighter["widths"][n] <= w for n, w in looser["widths"].items())


def test_a_front_is_judged_by_its_mean_accuracy(annealed):
    pas, outcome = annealed
    home = Home(pas.home)
    (name,) = optuna.get_all_study_names(home.optuna_url)
    study = optuna.load_study(study_name=name, storage=home.optuna_url)
    assert len(study.trials) == 2
    for number, trial in enumerate(study.trials):
        mine = [t["accuracy"] for t in outcome["trials"] if t["number"] == number]
        assert trial.value == pytest.approx(mean(mine))


def test_each_network_is_tracked_in_a_run_of_its_own(annealed):
    pas, outcome = annealed
    home = Home(pas.home)
    client = MlflowClient(home.mlflow_uri)
    read = {r.trial_id: r for r in load_records(home.mlflow_uri, "tiny")}
    assert len(outcome["trials"]) == len(IDS)
    for trial in outcome["trials"]:
        assert {**read[trial["trial_id"]].to_json(), "run_id": None} == trial
        run_id = read[trial["trial_id"]].run_id
        assert client.get_run(run_id).info.status == "FINISHED"
        steps = [m.step for m in client.get_metric_history(run_id, "epoch_accuracy")]
        assert sorted(steps) == list(range(1, (5 if trial["budget"] == 0.6 else 3) + 1))


def test_running_it_again_runs_nothing_and_promotes(annealed):
    pas, outcome = annealed
    before = {p: p.stat().st_mtime_ns for p in pas.home.glob("sweeps/*/trials/*/*")}
    again = pas.json("sweep", str(pas.file))["trials"]
    assert sorted(again, key=by_id) == sorted(outcome["trials"], key=by_id)
    assert {p: p.stat().st_mtime_ns for p in pas.home.glob("sweeps/*/trials/*/*")} == before
    promoted = pas.json("promote", "tiny", "--budget", "0.4", "--model", "m")
    assert promoted["trial"]["macs_ratio"] <= 0.4


def test_a_front_killed_half_way_ends_as_if_undisturbed(annealed, pas):
    _, outcome = annealed
    pas.file.write_text(SWEEP)
    driver = pas.start_until("b0.4-s10-0: finetune 1/", "sweep", str(pas.file))
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    ended = {p: p.stat().st_mtime_ns for p in pas.home.glob("sweeps/*/trials/*/result.json")}
    assert "b0.6-s10-0" in {p.parent.name for p in ended}
    done = pas.here("sweep", str(pas.file))
    assert done.returncode == 0, done.stderr
    assert {p: p.stat().st_mtime_ns for p in ended} == ended
    assert "b0.6-s10-0: started" not in done.stderr
    for trial in outcome["trials"]:
        (path,) = pas.home.glob(f"sweeps/*/trials/{trial['trial_id']}/result.json")
        result = json.loads(path.read_text())
        same = ("status", "accuracy", "test_accuracy", "widths", "training_macs")
        assert [result[k] for k in same] == [trial[k] for k in same]


def test_early_stopping_of_fronts_is_refused(pas):
    pas.file.write_text(SWEEP)
    done = pas.here("sweep", str(pas.file), "--set", "scheduler.name=asha")
    assert done.returncode == 2
    assert "with budget.schedule annealed" in done.stderr
    assert "Traceback" not in done.stderr
