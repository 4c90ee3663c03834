"""Sweeps in real MLflow stores: resumed, killed, retried, written again."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
from pathlib import Path

import pytest
from mlflow.data import get_source
from tracked_sweeps import (
    SWEEP,
    all_runs,
    assert_clean,
    ended,
    load_records,
    run_ids,
    run_trial,
    running,
    tracker,
    wait_for,
)
from warm_python import warm_python

from orchestrator.tracking import TrackingError
from orchestrator.tracking_data import data_input
from orchestrator.tracking_note import END, NOTE_TAG
from orchestrator.tracking_reader import find_sweep, list_sweeps
from orchestrator.tracking_server import open_client
from orchestrator.tracking_views import VIEW_TAG
from pas_trainer import DataConfig


def test_sweep_run_holds_front_and_description(tracking_uri, tmp_path):
    sweep = tracker(tracking_uri)
    done = [run_trial(sweep, running(n)) for n in range(2)]
    sweep.log_supernet(0.97, None)
    sweep.log_totals({"cpu_seconds": 8.5, "utilization": 0.5})
    sweep.log_totals({"cpu_seconds": 9.5, "utilization": 0.25})
    for count in (1, 2):
        sweep.update_front(done[:count], "macs", 23_000_000_000)
    sweep.close("FINISHED")
    client, info = open_client(tracking_uri), find_sweep(tracking_uri, "digits")
    assert (info.status, info.resource, info.supernet_cost) == ("FINISHED", "macs", 23e9)
    assert info.totals == {"cpu_seconds": 9.5, "utilization": 0.25}
    run = client.get_run(info.run_id)
    assert run.data.metrics["supernet_accuracy"] == 0.97
    assert run.data.metrics["best_accuracy/b0.5"] == done[1].score
    assert 0.4 < run.data.metrics["hypervolume"] < 0.5
    assert [m.step for m in client.get_metric_history(info.run_id, "hypervolume")] == [2]
    files = Path(client.download_artifacts(info.run_id, "", str(tmp_path)))
    assert {"front.json", "front.html", "sweep.yaml"} <= {f.name for f in files.iterdir()}
    table = json.loads((files / "front.json").read_text())
    assert [row[0] for row in table["data"]] == ["b0.5-s10-0", "b0.5-s10-1"]


def test_every_run_names_its_data_once(tracking_uri):
    config = DataConfig(name="imagefolder", root="s3://bucket/sets/flowers", image_size=32)
    data = data_input(config, "0123456789abcdef", {"train": 90, "validation": 10})
    for _ in range(2):  # a resumed sweep logs it again
        sweep = tracker(tracking_uri, data=data)
        run_trial(sweep, running(0))
        sweep.close("FINISHED")
    client, trials = all_runs(tracking_uri)
    for run in [client.get_run(sweep.run_id), *trials]:
        (used,) = run.inputs.dataset_inputs
        assert (used.dataset.name, used.dataset.digest) == ("flowers", "0123456789abcdef")
        assert get_source(used).uri == "s3://bucket/sets/flowers"
        assert json.loads(used.dataset.profile)["num_rows"] == 100


def test_names_of_runs_tell_the_outcome_and_leave_those_given_by_hand(tracking_uri):
    sweep = tracker(tracking_uri, limits={0.5: 1e6, 300000.0: 300000.0})
    absolute = running(1, budget=300000.0)
    for record in (running(0), absolute, running(2), running(3)):
        sweep.trial_started(record)
    wait_for(lambda: len(all_runs(tracking_uri)[1]) == 4)
    client = open_client(tracking_uri)
    client.update_run(run_ids(tracking_uri)["b0.5-s10-3"], name="mine")
    sweep.trial_finished(ended(absolute), {})
    sweep.trial_finished(ended(running(2), "FAILED"), {})
    sweep.close("KILLED")
    again = tracker(tracking_uri, limits={0.5: 1e6})
    again.trial_finished(ended(running(3)), {})
    again.close("FINISHED")
    names = {run.data.tags["pas.trial_id"]: run.info.run_name for run in all_runs(tracking_uri)[1]}
    assert names == {
        "b0.5-s10-0": "0.5 x MACs, strength 10 #0",
        "b300000-s10-1": "0.3 M MACs, strength 10 #1: 90.1 %",
        "b0.5-s10-2": "0.5 x MACs, strength 10 #2: failed",
        "b0.5-s10-3": "mine",
    }


def test_the_description_follows_the_sweep_and_keeps_what_a_person_wrote(tracking_uri):
    client = open_client(tracking_uri)
    sweep = tracker(tracking_uri, params={"resource": "macs", "num_trials": 2})
    done = [run_trial(sweep, running(0))]
    sweep.log_supernet(0.97, None)
    sweep.update_front(done, "macs", 23e9)
    sweep.close("KILLED")
    note = client.get_run(sweep.run_id).data.tags[NOTE_TAG]
    assert note.startswith("**1 of 2 trials have ended**: 1 finished; 1 on the front")
    assert run_ids(tracking_uri)["b0.5-s10-0"] in note
    client.set_tag(sweep.run_id, NOTE_TAG, note + "\n\nAsk Li before promoting.")

    sweep = tracker(tracking_uri, params={"resource": "macs", "num_trials": 2})
    done.append(run_trial(sweep, running(1)))
    sweep.update_front(done, "macs", 23e9)
    sweep.close("FINISHED")
    note = client.get_run(sweep.run_id).data.tags[NOTE_TAG]
    assert note.startswith("**2 of 2 trials have ended**: 2 finished; 2 on the front")
    assert "the supernet has 97.0 %" in note
    assert note.endswith(f"{END}\n\nAsk Li before promoting.")


def test_a_budget_of_many_macs_has_its_best_score(tracking_uri):
    sweep = tracker(tracking_uri)
    done = [dataclasses.replace(run_trial(sweep, running(0)), budget=3e8)]
    sweep.update_front(done, "macs", 23e9)
    sweep.close("FINISHED")
    metrics = open_client(tracking_uri).get_run(sweep.run_id).data.metrics
    assert metrics["best_accuracy/b3e08"] == done[0].score
    assert "hypervolume" in metrics


def test_views_are_offered_once_and_a_changed_one_stays(tracking_uri):
    tracker(tracking_uri).close("FINISHED")
    client, experiment_id = open_client(tracking_uri), find_sweep(tracking_uri, SWEEP).experiment_id
    tags = client.get_experiment(experiment_id).tags
    views = {name: value for name, value in tags.items() if name.startswith(VIEW_TAG)}
    assert len(views) == 3
    changed = next(iter(views))
    client.set_experiment_tag(experiment_id, changed, "changed by hand")
    tracker(tracking_uri).close("FINISHED")
    assert client.get_experiment(experiment_id).tags == {**tags, changed: "changed by hand"}


def test_a_trial_in_progress_is_seen_running(tracking_uri):
    sweep = tracker(tracking_uri)
    sweep.trial_started(running(0))
    sweep.log_epoch("b0.5-s10-0", {"loss": 1.0}, 0)
    wait_for(lambda: load_records(tracking_uri, SWEEP))
    assert load_records(tracking_uri, SWEEP)[0].status == "RUNNING"
    with pytest.raises(ValueError, match="trial_started"):
        sweep.log_epoch("unknown", {"loss": 1.0}, 0)
    sweep.close("KILLED")
    assert load_records(tracking_uri, SWEEP)[0].status == "KILLED"
    assert find_sweep(tracking_uri, SWEEP).status == "KILLED"
    assert_clean(tracking_uri, ["b0.5-s10-0"])


KILLED_DRIVER = """
import sys
sys.path[:0] = sys.argv[2:]
from tracked_sweeps import tracker, run_trial, running
sweep = tracker(sys.argv[1])
run_trial(sweep, running(0))
for number in (1, 2):
    sweep.trial_started(running(number))
    for epoch in range(2):
        sweep.log_epoch(running(number).trial_id, {"loss": 0.5, "accuracy": 0.4}, epoch)
import time
time.sleep(600)
"""


def test_a_killed_driver_is_followed_truthfully(tracking_uri):
    here = Path(__file__).parent
    driver = subprocess.Popen(
        [warm_python(), "-c", KILLED_DRIVER, tracking_uri, here, here.parent / "helpers"]
    )
    try:
        wait_for(lambda: list_sweeps(tracking_uri), 40)
        wait_for(lambda: sum("loss" in run.data.metrics for run in all_runs(tracking_uri)[1]) == 3)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()

    sweep = tracker(tracking_uri, params={"resource": "macs", "seed": 0, "cpus_per_trial": 2})
    before = run_ids(tracking_uri)
    sweep.trial_finished(ended(running(0)), {"architecture.json": "{}"})  # as after a crash
    done = run_trial(sweep, running(1))  # from the start: epochs 0 and 1 are there already
    sweep.close("FINISHED")
    client, runs = assert_clean(tracking_uri, [running(n).trial_id for n in range(3)])
    assert {key: run.info.run_id for key, run in runs.items()} == before
    history = client.get_metric_history(runs[done.trial_id].info.run_id, "loss")
    assert sorted((m.step, m.value) for m in history) == [(0, 0.5), (1, 0.5), (2, 1 / 3)]
    assert [r.status for r in load_records(tracking_uri, SWEEP)] == [
        "FINISHED",
        "FINISHED",
        "KILLED",
    ]
    assert len(list_sweeps(tracking_uri)) == 1


def test_finished_trials_written_again_change_nothing(tracking_uri):
    first = tracker(tracking_uri)
    done = [run_trial(first, running(n)) for n in range(3)]
    done.append(ended(running(3), score=float("nan")))
    first.trial_finished(done[3], {})
    first.trial_finished(done[0], {})
    first.update_front(done, "macs", 23_000_000_000)
    first.close("FINISHED")
    before = all_runs(tracking_uri)[1]
    second = tracker(tracking_uri)
    for record in done:
        second.trial_finished(record, {"architecture.json": "{}"})
    second.update_front(done, "macs", 23_000_000_000)
    second.close("FINISHED")
    assert_clean(tracking_uri, [record.trial_id for record in done])
    after = all_runs(tracking_uri)[1]
    assert [(r.info.end_time, r.data.tags) for r in before] == [
        (r.info.end_time, r.data.tags) for r in after
    ]
    client, run_id = open_client(tracking_uri), find_sweep(tracking_uri, SWEEP).run_id
    assert len(client.get_metric_history(run_id, "hypervolume")) == 1


def test_another_try_with_other_hyperparameters_replaces_the_run(tracking_uri):
    first = tracker(tracking_uri)
    first.trial_started(running(0))
    first.log_epoch("b0.5-s10-0", {"loss": 9.0}, 7)
    first.close("KILLED")
    second = tracker(tracking_uri)
    done = run_trial(second, running(0, learning_rate=0.7))
    second.close("FINISHED")
    client, runs = assert_clean(tracking_uri, [done.trial_id])
    run = runs[done.trial_id]
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 3
    assert load_records(tracking_uri, SWEEP)[0].hyperparameters == done.hyperparameters


def test_changed_settings_do_not_break_a_resume(tracking_uri):
    tracker(tracking_uri, params={"cpus_per_trial": 1, "resource": "num_params"}).close("KILLED")
    tracker(tracking_uri, params={"cpus_per_trial": 4, "resource": "num_params"}).close("FINISHED")
    info = find_sweep(tracking_uri, SWEEP)
    run = open_client(tracking_uri).get_run(info.run_id)
    assert run.data.params["cpus_per_trial"] == "1"
    assert run.data.tags["pas.param.cpus_per_trial"] == "4"
    assert info.resource == "num_params"


def test_a_failed_trial_that_is_retried_loses_its_error(tracking_uri):
    sweep = tracker(tracking_uri)
    sweep.trial_started(running(0))
    sweep.trial_finished(ended(running(0), "FAILED"), {})
    wait_for(lambda: [r.status for r in load_records(tracking_uri, SWEEP)] == ["FAILED"])
    done = run_trial(sweep, running(0))
    sweep.close("FINISHED")
    _, runs = assert_clean(tracking_uri, [done.trial_id])
    assert load_records(tracking_uri, SWEEP)[0].error is None
    assert runs[done.trial_id].info.status == "FINISHED"


def test_more_metrics_and_widths_than_one_request_holds(tracking_uri):
    sweep = tracker(tracking_uri)
    record = running(0)
    sweep.trial_started(record)
    for step in range(700):
        sweep.log_epoch(record.trial_id, {"loss": float(step), "lr": 0.1}, step)
    widths = {f"a_rather_long_name_of_a_group.{i}": i for i in range(400)}
    sweep.trial_finished(ended(record, widths=widths), {})
    sweep.close("FINISHED")
    client, runs = assert_clean(tracking_uri, [record.trial_id])
    run_id = runs[record.trial_id].info.run_id
    assert len(client.get_metric_history(run_id, "loss")) == 700
    assert load_records(tracking_uri, SWEEP)[0].widths == widths


def test_one_refused_write_is_told_at_the_end_and_stops_nothing(tracking_uri):
    sweep = tracker(tracking_uri)
    sweep.trial_started(running(0))
    sweep.log_epoch("b0.5-s10-0", {"not a name!": 1.0}, 0)
    run_trial(sweep, running(1))
    with pytest.raises(TrackingError, match="refused a write"):
        sweep.close("FINISHED")
    assert [r.status for r in load_records(tracking_uri, SWEEP)] == ["KILLED", "FINISHED"]
