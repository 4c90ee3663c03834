"""Sweeps in real MLflow stores: resumed, killed, cut off from the server, read back."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.data import get_source
from tracking_servers import TrackingServer

from orchestrator import tracking_requests
from orchestrator.records import TrialRecord
from orchestrator.tracking import SweepTracker, TrackingError
from orchestrator.tracking_data import data_input
from orchestrator.tracking_note import END, NOTE_TAG
from orchestrator.tracking_reader import UnknownSweepError, find_sweep, list_sweeps, load_records
from orchestrator.tracking_server import check_server, mask_uri, open_client
from orchestrator.tracking_views import VIEW_TAG
from pas_trainer import DataConfig

SWEEP = "digits-1a2b3c"
WIDTHS = {"stage1.0": 5, "stage2.0": 17}


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A migrated sqlite store, made once: its migrations take seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(empty_database, tmp_path):
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def tracker(uri, sweep_id=SWEEP, name="digits", **changes):
    options = {
        "uri": uri,
        "sweep_id": sweep_id,
        "name": name,
        "experiment": "digits",
        "params": {"resource": "macs", "seed": 0},
        "tags": {"pas.task": "classification"},
        "artifacts": {"sweep.yaml": "name: digits\n"},
    }
    return SweepTracker(**(options | changes)).start()


def running(number, budget=0.5, strength=10.0, learning_rate=0.1):
    return TrialRecord(
        trial_id=f"b{budget:g}-s{strength:g}-{number}",
        sweep_id=SWEEP,
        status="RUNNING",
        budget=budget,
        strength=strength,
        number=number,
        hyperparameters={"learning_rate": learning_rate / (number + 3)},
    )


def ended(record, status="FINISHED", **fields):
    results = {
        "macs": 11_810_000_001 + record.number,
        "macs_ratio": 0.4987654321,
        "num_params": 1234,
        "latency_ms": 0.1 + record.number,
        "search_seconds": 1.5,
        "finetune_seconds": 2.25,
        "cpu_seconds": 7.5,
        "gpu_seconds": 0.0,
        "price": 0.01,
        "score": 0.9 + 0.001 * record.number,
        "test_score": 0.88,
        "widths": WIDTHS,
    }
    if status == "FAILED":
        results = {"error": "out of memory"}
    return dataclasses.replace(record, status=status, **(results | fields))


def run_trial(sweep, record, epochs=3):
    sweep.trial_started(record)
    for epoch in range(epochs):
        sweep.log_epoch(record.trial_id, {"loss": 1.0 / (epoch + 1), "accuracy": 0.5}, epoch)
    done = ended(record)
    sweep.trial_finished(done, {"architecture.json": "{}"})
    return done


def all_runs(uri):
    """Children as (tags, run), with the trial id, straight from MLflow."""
    client = open_client(uri)
    parent = find_sweep(uri, SWEEP)
    runs = client.search_runs([parent.experiment_id], max_results=5000)
    return client, [run for run in runs if run.data.tags.get("pas.kind") == "trial"]


def assert_clean(uri, trials):
    """One run per trial, no epoch twice, none RUNNING."""
    client, runs = all_runs(uri)
    assert sorted(run.data.tags["pas.trial_id"] for run in runs) == sorted(trials)
    for run in runs:
        assert run.info.status != "RUNNING"
        for key in run.data.metrics:
            history = client.get_metric_history(run.info.run_id, key)
            assert max(Counter(metric.step for metric in history).values()) == 1, key
    return client, {run.data.tags["pas.trial_id"]: run for run in runs}


def test_scores_of_another_metric_are_read_back(uri):
    """Of this one less is better; further figures come back as well."""
    lower = {"metric": "swd", "higher_is_better": False}
    sweep = tracker(uri, **lower)
    records = []
    for number, score in enumerate((0.5, 0.25)):
        begun = dataclasses.replace(running(number), **lower)
        sweep.trial_started(begun)
        sweep.log_epoch(begun.trial_id, {"loss": 1.0, "epoch_swd": score, "epoch_kid": 2.0}, 0)
        records.append(ended(begun, score=score, metrics={"kid": 1.5, "test_kid": 1.75}))
        sweep.trial_finished(records[-1], {"preview_search.jpg": b"\xff\xd8"})
    sweep.log_supernet(0.125, 0.25)
    sweep.update_front(records, "macs", 2.5e10)
    sweep.close("FINISHED")
    info = find_sweep(uri, SWEEP)
    assert (info.metric, info.higher_is_better) == ("swd", False)
    assert (info.supernet_score, info.supernet_test_score) == (0.125, 0.25)
    found = load_records(uri, SWEEP)
    assert [dataclasses.replace(r, run_id=None, on_front=False) for r in found] == records
    client, runs = assert_clean(uri, [r.trial_id for r in records])
    assert client.get_run(info.run_id).data.metrics["best_swd/b0.5"] == 0.25
    assert "accuracy" not in runs[records[0].trial_id].data.metrics
    names = {item.path for item in client.list_artifacts(found[0].run_id)}
    assert "preview_search.jpg" in names


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)


def test_records_come_back_as_they_went_in(uri):
    sweep = tracker(uri)
    done = [run_trial(sweep, running(n)) for n in range(3)]
    pruned = ended(running(3), "PRUNED", score=0.2, widths=None)
    failed = ended(running(4, strength=1.0), "FAILED")
    for record in (pruned, failed):
        sweep.trial_started(dataclasses.replace(running(record.number), trial_id=record.trial_id))
        sweep.trial_finished(record, {})
    sweep.update_front([*done, pruned, failed], "macs", 23_000_000_000)
    sweep.close("FINISHED")
    sweep.close("FINISHED")

    loaded = load_records(uri, SWEEP)
    written = [failed, *done, pruned]  # by budget, strength, number
    plain = [dataclasses.replace(r, run_id=None, on_front=False) for r in loaded]
    assert plain == written
    assert [r.number for r in loaded if r.on_front] == [0, 1, 2]
    assert all(r.run_id == sweep.run_ids[r.trial_id] for r in loaded)

    client, runs = assert_clean(uri, [r.trial_id for r in written])
    assert runs[failed.trial_id].info.status == "FAILED"
    assert runs[failed.trial_id].data.tags["pas.error"] == "out of memory"
    assert runs[pruned.trial_id].info.status == "FINISHED"
    first = runs[done[0].trial_id]
    assert first.info.run_name == "0.5 x MACs, strength 10 #0: 90.0 %"
    assert first.data.metrics["accuracy"] == done[0].score
    assert {f.path for f in client.list_artifacts(first.info.run_id)} == {
        "architecture.json",
        "widths.json",
    }


def test_controls_come_back_as_controls(uri):
    sweep = tracker(uri)
    trial = run_trial(sweep, running(0))
    begun = TrialRecord(
        trial_id="control-uniform-b0.25",
        sweep_id=SWEEP,
        status="RUNNING",
        budget=0.25,
        strength=0.0,
        number=0,
        control="uniform",
    )
    sweep.trial_started(begun)
    control = ended(begun, score=0.999, training_macs=3 * 10**12)
    sweep.trial_finished(control, {})
    sweep.update_front([trial, control], "macs", 23_000_000_000)
    sweep.close("FINISHED")
    first, last = load_records(uri, SWEEP)
    assert (first.on_front, last.on_front) == (True, False)
    assert dataclasses.replace(last, run_id=None) == control
    client, runs = assert_clean(uri, [trial.trial_id, control.trial_id])
    run = runs[control.trial_id]
    assert run.info.run_name == "control uniform, 0.25 x MACs: 99.9 %"
    assert run.data.tags["pas.control"] == "uniform"
    assert run.data.metrics["training_macs"] == 3 * 10**12
    assert "pas.control" not in runs[trial.trial_id].data.tags
    metrics = client.get_run(sweep.run_id).data.metrics
    assert "best_accuracy/b0.25" not in metrics
    assert metrics["best_accuracy/b0.5"] == trial.score


def test_sweep_run_holds_front_and_description(uri, tmp_path):
    sweep = tracker(uri)
    done = [run_trial(sweep, running(n)) for n in range(2)]
    sweep.log_supernet(0.97, None)
    sweep.log_totals({"cpu_seconds": 8.5, "utilization": 0.5})
    sweep.log_totals({"cpu_seconds": 9.5, "utilization": 0.25})
    for count in (1, 2):
        sweep.update_front(done[:count], "macs", 23_000_000_000)
    sweep.close("FINISHED")
    client, info = open_client(uri), find_sweep(uri, "digits")
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


def test_every_run_names_its_data_once(uri):
    config = DataConfig(name="imagefolder", root="s3://bucket/sets/flowers", image_size=32)
    data = data_input(config, "0123456789abcdef", {"train": 90, "validation": 10})
    for _ in range(2):  # a resumed sweep logs it again
        sweep = tracker(uri, data=data)
        run_trial(sweep, running(0))
        sweep.close("FINISHED")
    client, trials = all_runs(uri)
    for run in [client.get_run(sweep.run_id), *trials]:
        (used,) = run.inputs.dataset_inputs
        assert (used.dataset.name, used.dataset.digest) == ("flowers", "0123456789abcdef")
        assert get_source(used).uri == "s3://bucket/sets/flowers"
        assert json.loads(used.dataset.profile)["num_rows"] == 100


def front_models(uri):
    """Trial id -> logged model, of all of the sweep's."""
    models = open_client(uri).search_logged_models([find_sweep(uri, SWEEP).experiment_id])
    assert len({model.source_run_id for model in models}) == len(models)
    return {model.tags["pas.trial_id"]: model for model in models}


def on_front(models):
    return {trial_id: model.tags["pas.on_front"] for trial_id, model in models.items()}


def test_networks_of_the_front_become_models_once_and_say_when_they_are_beaten(uri):
    data = data_input(DataConfig(name="digits"), "0123456789abcdef", {"train": 100})
    sweep = tracker(uri, data=data)
    done = [run_trial(sweep, running(n)) for n in range(2)]  # each dearer and better
    beaten = dataclasses.replace(done[0], trial_id="b0.5-s10-2", number=2, score=0.1)
    sweep.trial_finished(beaten, {})
    sweep.update_front([*done, beaten], "macs", 23e9)
    sweep.close("KILLED")
    assert front_models(uri) == {}  # what is on the front is decided at the end

    for _ in range(2):
        sweep = tracker(uri, data=data)
        sweep.update_front([*done, beaten], "macs", 23e9)
        sweep.close("FINISHED")
    models = front_models(uri)
    assert on_front(models) == {"b0.5-s10-0": "true", "b0.5-s10-1": "true"}
    client, runs = assert_clean(uri, ["b0.5-s10-0", "b0.5-s10-1", "b0.5-s10-2"])
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

    sweep = tracker(uri, data=data)  # as pas extend: a better trial
    best = dataclasses.replace(done[0], trial_id="b0.5-s10-3", number=3, score=0.99)
    sweep.trial_finished(best, {})
    sweep.update_front([*done, beaten, best], "macs", 23e9)
    sweep.close("FINISHED")
    expected = {"b0.5-s10-0": "false", "b0.5-s10-1": "false", "b0.5-s10-3": "true"}
    assert on_front(front_models(uri)) == expected
    _, runs = assert_clean(uri, [*expected, "b0.5-s10-2"])
    tags = {trial_id: run.data.tags.get("pas.on_front") for trial_id, run in runs.items()}
    assert tags == {**expected, "b0.5-s10-2": None}


def test_a_model_that_was_half_written_is_completed(uri, monkeypatch):
    sweep = tracker(uri)
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
    (model,) = front_models(uri).values()
    assert str(model.status) == "READY"
    _, runs = assert_clean(uri, [done.trial_id])
    assert len(runs[done.trial_id].outputs.model_outputs) == 1
    assert find_sweep(uri, SWEEP).status == "FINISHED"


def test_names_of_runs_tell_the_outcome_and_leave_those_given_by_hand(uri):
    sweep = tracker(uri, limits={0.5: 1e6, 300000.0: 300000.0})
    absolute = running(1, budget=300000.0)
    for record in (running(0), absolute, running(2), running(3)):
        sweep.trial_started(record)
    wait_for(lambda: len(all_runs(uri)[1]) == 4)
    client = open_client(uri)
    client.update_run(sweep.run_ids["b0.5-s10-3"], name="mine")
    sweep.trial_finished(ended(absolute), {})
    sweep.trial_finished(ended(running(2), "FAILED"), {})
    sweep.close("KILLED")
    again = tracker(uri, limits={0.5: 1e6})
    again.trial_finished(ended(running(3)), {})
    again.close("FINISHED")
    names = {run.data.tags["pas.trial_id"]: run.info.run_name for run in all_runs(uri)[1]}
    assert names == {
        "b0.5-s10-0": "0.5 x MACs, strength 10 #0",
        "b300000-s10-1": "0.3 M MACs, strength 10 #1: 90.1 %",
        "b0.5-s10-2": "0.5 x MACs, strength 10 #2: failed",
        "b0.5-s10-3": "mine",
    }


def test_the_description_follows_the_sweep_and_keeps_what_a_person_wrote(uri):
    client = open_client(uri)
    sweep = tracker(uri, params={"resource": "macs", "num_trials": 2})
    done = [run_trial(sweep, running(0))]
    sweep.log_supernet(0.97, None)
    sweep.update_front(done, "macs", 23e9)
    sweep.close("KILLED")
    note = client.get_run(sweep.run_id).data.tags[NOTE_TAG]
    assert note.startswith("**1 of 2 trials have ended**: 1 finished; 1 on the front")
    assert sweep.run_ids["b0.5-s10-0"] in note
    client.set_tag(sweep.run_id, NOTE_TAG, note + "\n\nAsk Li before promoting.")

    sweep = tracker(uri, params={"resource": "macs", "num_trials": 2})
    done.append(run_trial(sweep, running(1)))
    sweep.update_front(done, "macs", 23e9)
    sweep.close("FINISHED")
    note = client.get_run(sweep.run_id).data.tags[NOTE_TAG]
    assert note.startswith("**2 of 2 trials have ended**: 2 finished; 2 on the front")
    assert "the supernet has 97.0 %" in note
    assert note.endswith(f"{END}\n\nAsk Li before promoting.")


def test_views_are_offered_once_and_a_changed_one_stays(uri):
    tracker(uri).close("FINISHED")
    client, experiment_id = open_client(uri), find_sweep(uri, SWEEP).experiment_id
    tags = client.get_experiment(experiment_id).tags
    views = {name: value for name, value in tags.items() if name.startswith(VIEW_TAG)}
    assert len(views) == 3
    changed = next(iter(views))
    client.set_experiment_tag(experiment_id, changed, "changed by hand")
    tracker(uri).close("FINISHED")
    assert client.get_experiment(experiment_id).tags == {**tags, changed: "changed by hand"}


def test_a_trial_in_progress_is_seen_running(uri):
    sweep = tracker(uri)
    sweep.trial_started(running(0))
    sweep.log_epoch("b0.5-s10-0", {"loss": 1.0}, 0)
    wait_for(lambda: load_records(uri, SWEEP))
    assert load_records(uri, SWEEP)[0].status == "RUNNING"
    with pytest.raises(ValueError, match="trial_started"):
        sweep.log_epoch("unknown", {"loss": 1.0}, 0)
    sweep.close("KILLED")
    assert load_records(uri, SWEEP)[0].status == "KILLED"
    assert find_sweep(uri, SWEEP).status == "KILLED"
    assert_clean(uri, ["b0.5-s10-0"])


KILLED_DRIVER = """
import sys
sys.path[:0] = sys.argv[2:]
from test_tracking import tracker, run_trial, running
sweep = tracker(sys.argv[1])
run_trial(sweep, running(0))
for number in (1, 2):
    sweep.trial_started(running(number))
    for epoch in range(2):
        sweep.log_epoch(running(number).trial_id, {"loss": 0.5, "accuracy": 0.4}, epoch)
import time
time.sleep(600)
"""


def test_a_killed_driver_is_followed_truthfully(uri):
    here = Path(__file__).parent
    driver = subprocess.Popen(
        [sys.executable, "-c", KILLED_DRIVER, uri, here, here.parent / "helpers"]
    )
    try:
        wait_for(lambda: list_sweeps(uri), 40)
        wait_for(lambda: sum("loss" in run.data.metrics for run in all_runs(uri)[1]) == 3)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()

    sweep = tracker(uri, params={"resource": "macs", "seed": 0, "cpus_per_trial": 2})
    before = sweep.run_ids
    sweep.trial_finished(ended(running(0)), {"architecture.json": "{}"})  # as after a crash
    done = run_trial(sweep, running(1))  # from the start: epochs 0 and 1 are there already
    sweep.close("FINISHED")
    client, runs = assert_clean(uri, [running(n).trial_id for n in range(3)])
    assert {key: run.info.run_id for key, run in runs.items()} == before
    history = client.get_metric_history(runs[done.trial_id].info.run_id, "loss")
    assert sorted((m.step, m.value) for m in history) == [(0, 0.5), (1, 0.5), (2, 1 / 3)]
    assert [r.status for r in load_records(uri, SWEEP)] == ["FINISHED", "FINISHED", "KILLED"]
    assert len(list_sweeps(uri)) == 1


def test_finished_trials_written_again_change_nothing(uri):
    first = tracker(uri)
    done = [run_trial(first, running(n)) for n in range(3)]
    done.append(ended(running(3), score=float("nan")))
    first.trial_finished(done[3], {})
    first.trial_finished(done[0], {})
    first.update_front(done, "macs", 23_000_000_000)
    first.close("FINISHED")
    before = all_runs(uri)[1]
    second = tracker(uri)
    for record in done:
        second.trial_finished(record, {"architecture.json": "{}"})
    second.update_front(done, "macs", 23_000_000_000)
    second.close("FINISHED")
    assert_clean(uri, [record.trial_id for record in done])
    after = all_runs(uri)[1]
    assert [(r.info.end_time, r.data.tags) for r in before] == [
        (r.info.end_time, r.data.tags) for r in after
    ]
    client, run_id = open_client(uri), find_sweep(uri, SWEEP).run_id
    assert len(client.get_metric_history(run_id, "hypervolume")) == 1


def test_another_try_with_other_hyperparameters_replaces_the_run(uri):
    first = tracker(uri)
    first.trial_started(running(0))
    first.log_epoch("b0.5-s10-0", {"loss": 9.0}, 7)
    first.close("KILLED")
    second = tracker(uri)
    done = run_trial(second, running(0, learning_rate=0.7))
    second.close("FINISHED")
    client, runs = assert_clean(uri, [done.trial_id])
    run = runs[done.trial_id]
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 3
    assert load_records(uri, SWEEP)[0].hyperparameters == done.hyperparameters


def test_changed_settings_do_not_break_a_resume(uri):
    tracker(uri, params={"cpus_per_trial": 1, "resource": "num_params"}).close("KILLED")
    tracker(uri, params={"cpus_per_trial": 4, "resource": "num_params"}).close("FINISHED")
    info = find_sweep(uri, SWEEP)
    run = open_client(uri).get_run(info.run_id)
    assert run.data.params["cpus_per_trial"] == "1"
    assert run.data.tags["pas.param.cpus_per_trial"] == "4"
    assert info.resource == "num_params"


def test_a_failed_trial_that_is_retried_loses_its_error(uri):
    sweep = tracker(uri)
    sweep.trial_started(running(0))
    sweep.trial_finished(ended(running(0), "FAILED"), {})
    wait_for(lambda: [r.status for r in load_records(uri, SWEEP)] == ["FAILED"])
    done = run_trial(sweep, running(0))
    sweep.close("FINISHED")
    _, runs = assert_clean(uri, [done.trial_id])
    assert load_records(uri, SWEEP)[0].error is None
    assert runs[done.trial_id].info.status == "FINISHED"


def test_more_metrics_and_widths_than_one_request_holds(uri):
    sweep = tracker(uri)
    record = running(0)
    sweep.trial_started(record)
    for step in range(700):
        sweep.log_epoch(record.trial_id, {"loss": float(step), "lr": 0.1}, step)
    widths = {f"a_rather_long_name_of_a_group.{i}": i for i in range(400)}
    sweep.trial_finished(ended(record, widths=widths), {})
    sweep.close("FINISHED")
    client, runs = assert_clean(uri, [record.trial_id])
    run_id = runs[record.trial_id].info.run_id
    assert len(client.get_metric_history(run_id, "loss")) == 700
    assert load_records(uri, SWEEP)[0].widths == widths


def test_more_trials_than_one_page(uri, monkeypatch):
    monkeypatch.setattr(tracking_requests, "PAGE_SIZE", 7)
    sweep = tracker(uri)
    for number in range(30):
        record = running(number)
        sweep.trial_started(record)
        if number % 2:
            sweep.trial_finished(ended(record, widths=None), {})
    sweep.close("KILLED")
    assert Counter(r.status for r in load_records(uri, SWEEP)) == {"FINISHED": 15, "KILLED": 15}
    again = tracker(uri)
    assert again.run_ids == sweep.run_ids
    again.close("FINISHED")


def test_one_refused_write_is_told_at_the_end_and_stops_nothing(uri):
    sweep = tracker(uri)
    sweep.trial_started(running(0))
    sweep.log_epoch("b0.5-s10-0", {"not a name!": 1.0}, 0)
    run_trial(sweep, running(1))
    with pytest.raises(TrackingError, match="refused a write"):
        sweep.close("FINISHED")
    assert [r.status for r in load_records(uri, SWEEP)] == ["KILLED", "FINISHED"]


def test_finding_sweeps(uri):
    assert list_sweeps(uri) == []
    with pytest.raises(UnknownSweepError, match="no sweep has been run"):
        find_sweep(uri, "digits")
    for sweep_id in ("digits-a", "digits-b"):
        tracker(uri, sweep_id=sweep_id).close("FINISHED")
        time.sleep(0.01)
    assert find_sweep(uri, "digits").sweep_id == "digits-b"
    assert find_sweep(uri, "digits-a").sweep_id == "digits-a"
    with pytest.raises(UnknownSweepError, match="did you mean digits"):
        find_sweep(uri, "digit")


def test_looking_creates_no_database(tmp_path):
    assert list_sweeps(f"sqlite:///{tmp_path}/none.db") == []
    assert not list(tmp_path.iterdir())


def test_quotes_in_an_id_are_refused(uri):
    with pytest.raises(ValueError, match="quotes"):
        tracker(uri, sweep_id="a' or '1")


def test_a_server_that_is_not_there():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(TrackingError, match=r"http://\*\*\*@.* cannot be reached") as caught:
            check_server(f"http://user:secret@{address}", timeout_s=2)
        held.listen()  # takes connections, answers nothing
        with pytest.raises(TrackingError, match="did not answer within"):
            check_server(f"http://{address}", timeout_s=0.3)
    assert "secret" not in str(caught.value)
    assert mask_uri("postgresql://u:p@h/db") == "postgresql://***@h/db"
    check_server("sqlite:///nowhere.db")


@pytest.mark.slow
def test_a_server_that_goes_away_loses_nothing(uri, tmp_path):
    server = TrackingServer(tmp_path).start()
    http = server.url
    try:
        sweep = tracker(http)
        done = [run_trial(sweep, running(0))]
        sweep.trial_started(running(1))
        wait_for(lambda: len(load_records(http, SWEEP)) == 2)
        server.kill()
        begin = time.monotonic()
        for epoch in range(3):
            sweep.log_epoch(running(1).trial_id, {"loss": 0.5}, epoch)
        done += [ended(running(1))]
        sweep.trial_finished(done[1], {"architecture.json": "{}"})
        done += [run_trial(sweep, running(n)) for n in (2, 3)]
        sweep.update_front(done, "macs", 23_000_000_000)
        assert time.monotonic() - begin < 0.5  # training does not wait
        time.sleep(1.5)
        server.start()
        sweep.close("FINISHED")
        _, runs = assert_clean(http, [record.trial_id for record in done])
        assert runs[done[1].trial_id].data.metrics["loss"] == 0.5
        assert {r.status for r in load_records(http, SWEEP)} == {"FINISHED"}
        files = {f.path for f in open_client(http).list_artifacts(sweep.run_id)}
        assert {"front.html", "front.json", "sweep.yaml"} <= files

        lost = tracker(http)
        lost.trial_started(running(9))
        server.kill()
        begin = time.monotonic()
        with pytest.raises(TrackingError, match="did not take everything within 2 s"):
            lost.close("FINISHED", timeout_s=2)
        assert time.monotonic() - begin < 4
    finally:
        server.kill()


def test_a_store_of_another_mlflow_is_named_with_the_way_out(uri, tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("update alembic_version set version_num = '6953534de441'")
    with pytest.raises(TrackingError, match=f"out-of-date .* 'mlflow db upgrade {uri}'"):
        open_client(uri)
