"""Sweeps on real Ray, Optuna and MLflow: results, resumption, promotion, the UI."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
from mlflow import MlflowClient
from sweep_stores import optuna_trials, runs_of

from orchestrator.loading import load_sweep
from orchestrator.records import TrialRecord
from orchestrator.reproduction import search_command

pytestmark = pytest.mark.slow


def test_every_trial_is_recorded_once_and_within_its_budget(finished):
    client, sweep, trials = runs_of(finished)
    assert len(trials) == 4
    assert sweep.info.status == "FINISHED"
    assert {t.info.status for t in trials} == {"FINISHED"}
    assert {t.data.tags["mlflow.parentRunId"] for t in trials} == {sweep.info.run_id}
    for trial in trials:
        metrics, budget = trial.data.metrics, float(trial.data.params["budget"])
        assert 0.97 * budget <= metrics["macs_ratio"] <= budget
        assert metrics["accuracy"] > 0.5
        names = {a.path for a in client.list_artifacts(trial.info.run_id)}
        assert {"architecture.json", "widths.json"} <= names
        history = client.get_metric_history(trial.info.run_id, "epoch_accuracy")
        assert [m.step for m in history] == list(range(1, 9))
    names = {a.path for a in client.list_artifacts(sweep.info.run_id)}
    assert {"front.json", "front.html", "sweep.yaml"} <= names
    assert 0 < sweep.data.metrics["hypervolume"] < 1
    assert [t.state.name for t in optuna_trials(finished)] == ["COMPLETE"] * 4


def test_nothing_is_left_behind(finished):
    (folder,) = finished.home.glob("sweeps/*")
    assert not (folder / "ray").exists()
    names = {"architecture.json", "result.json"}
    package = {*names, "weights.safetensors", "training_weights.safetensors"}
    for trial in finished.json("compare", "tiny")["trials"]:
        left = {path.name for path in (folder / "trials" / trial["trial_id"]).iterdir()}
        assert left == (package if trial["on_front"] else names)
    assert not list(finished.home.rglob("checkpoint.pt"))
    assert not list(finished.home.rglob("*.tmp"))


def test_what_was_used_is_told(finished):
    document = finished.json("status", "tiny")
    used, trials = document["usage"], document["trials"]
    for trial in trials:
        phases = trial["search_seconds"], trial["finetune_seconds"]
        assert min(phases) > 0
        assert trial["cpu_seconds"] == pytest.approx(sum(phases))
    assert 0 < used["utilization"] <= 1
    assert used["hours"]["pretrain"] > 0
    assert "lost" not in used["hours"]
    trained = sum(trial["cpu_seconds"] for trial in trials)
    assert 3600 * used["cpu_hours"] > trained + 3600 * used["hours"]["pretrain"]


def test_running_it_again_runs_nothing(finished):
    before = {p: p.stat().st_mtime_ns for p in finished.home.glob("sweeps/*/trials/*/*")}
    begun = time.monotonic()
    document = finished.json("sweep", str(finished.file))
    assert len(document["trials"]) == 4
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert time.monotonic() - begun < 60
    _, _, trials = runs_of(finished)
    assert len(trials) == 4


def test_a_trial_of_a_sweep_is_run_again_by_itself(finished, make_pas, tmp_path):
    alone = make_pas(tmp_path)
    trials = finished.json("compare", "tiny")["trials"]
    trial = next(t for t in trials if t["number"] == 1)
    shutil.copytree(finished.home / "supernets", alone.home / "supernets")
    record = TrialRecord.from_json(trial)
    _, *words = shlex.split(search_command(load_sweep(alone.file), record, {}))
    again = alone.json(*words)
    for name in ("macs", "widths", "accuracy", "test_accuracy", "hyperparameters"):
        assert again[name] == trial[name], name
    assert Path(again["folder"]).name.startswith(f"{trial['trial_id']}-")  # no two share a folder


def test_an_interrupted_sweep_says_so_and_leaves_no_run_running(pas):
    driver = subprocess.Popen(
        pas.command(
            "sweep", str(pas.file), "--set", "pretrain.epochs=1", "--set", "search.epochs=1"
        ),
        env=pas.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert driver.stderr is not None
    for line in driver.stderr:
        if "finetune" in line:
            break
    driver.send_signal(signal.SIGINT)
    _, errors = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert "goes on from here" in errors
    assert "Traceback" not in errors
    _, sweep, trials = runs_of(pas)
    assert sweep.info.status == "KILLED"
    assert "RUNNING" not in {t.info.status for t in trials}


def listening_of(pid):
    """Addresses on which a process and its children listen."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    sockets = [s for process in family for s in process.net_connections("inet")]
    return {s.laddr.ip for s in sockets if s.status == "LISTEN"}


def test_two_drivers_exclude_each_other_and_the_first_can_be_stopped(pas):
    pas.python = sys.executable
    first = pas.start_until("supernet: epoch", "sweep", str(pas.file))
    listening = listening_of(first.pid)
    assert listening  # Ray does
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    second = pas.here("sweep", str(pas.file))
    assert second.returncode == 2
    assert "is being run by another process" in second.stderr
    assert pas.json("stop", "tiny")["was_running"]
    first.communicate(timeout=60)
    assert first.returncode == 130
    assert runs_of(pas)[1].info.status == "KILLED"
    log = pas.here("logs", "tiny").stdout.splitlines()
    assert "supernet: epoch 1/" in log[1]
    assert log[-1].endswith("driver ends: interrupted")


def test_tables_agree_with_the_records(finished):
    compared = finished.json("compare", "tiny")
    front = finished.json("pareto", "tiny")["trials"]
    trials = compared["trials"]
    assert len(trials) == 4
    assert compared["supernet_accuracy"] > 0.5
    for trial in trials:
        beaten = any(
            other["macs"] <= trial["macs"]
            and other["accuracy"] >= trial["accuracy"]
            and (other["macs"], other["accuracy"]) != (trial["macs"], trial["accuracy"])
            for other in trials
        )
        assert trial["on_front"] == (not beaten)
    assert [t["trial_id"] for t in front] == [t["trial_id"] for t in trials if t["on_front"]]
    status = finished.json("status", "tiny")
    assert status["status"] == "FINISHED"
    assert finished.json("status")[0]["sweep_id"] == status["sweep_id"]
    shown = finished.here("compare", "tiny").stdout
    assert f"{max(t['accuracy'] for t in trials):.4f}" in shown


def test_the_best_within_a_budget_is_promoted_and_loads_in_plain_mlflow(finished):
    promoted = finished.json("promote", "tiny", "--budget", "0.5", "--model", "m")
    trials = finished.json("pareto", "tiny")["trials"]
    best = max((t for t in trials if t["macs_ratio"] <= 0.5), key=lambda t: t["accuracy"])
    assert promoted["trial"]["trial_id"] == best["trial_id"]
    client = MlflowClient(f"sqlite:///{finished.home / 'mlflow.db'}")
    version = client.get_model_version_by_alias("m", "champion")
    assert version.run_id == best["run_id"]
    assert float(version.tags["pas.accuracy"]) == best["accuracy"]
    code = (
        "import mlflow, numpy as np, sys\n"
        "sys.modules['search_space'] = sys.modules['deploy'] = None\n"
        f"mlflow.set_tracking_uri('sqlite:///{finished.home / 'mlflow.db'}')\n"
        "m = mlflow.pyfunc.load_model('models:/m@champion')\n"
        "print(m.predict(np.zeros((3, 1, 8, 8), np.float32)).shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("(3, 10)"), done.stderr
    again = finished.json("promote", "tiny", "--budget", "0.5", "--model", "m")
    assert again["version"] == promoted["version"]
    refused = finished.here("promote", "tiny", "--budget", "0.01", "--model", "m")
    assert refused.returncode == 2
    assert "no front member is that cheap" in refused.stderr


def test_the_ui_is_served_on_loopback_only(finished):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        finished.command("ui", "--port", str(port)),
        env=finished.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
        assert url is not None
        assert requests.get(f"{url[0]}/health", timeout=5).ok
        listening = subprocess.run(
            ["cat", "/proc/net/tcp"], capture_output=True, text=True, check=True
        ).stdout
        assert f"0100007F:{port:04X}" in listening
        assert f"00000000:{port:04X}" not in listening
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 130
    with socket.create_server(("127.0.0.1", port)):  # nothing is left that listens
        pass


def test_predictions_survive_the_journey(finished):
    """Reported test accuracy equals what the stored package classifies."""
    from deploy import deployed_network, load_package
    from pas_trainer import DataConfig, open_sources

    test = open_sources(DataConfig(name="digits", validation=0.25)).test
    images = np.stack([np.asarray(i, np.float32).transpose(2, 0, 1) for i in test.images]) / 255
    import torch

    front = finished.json("pareto", "tiny")["trials"]
    assert front
    for trial in front:
        folder = finished.home / "sweeps" / trial["sweep_id"] / "trials" / trial["trial_id"]
        network = deployed_network(*load_package(folder))
        with torch.no_grad():
            predicted = network(torch.from_numpy(images)).argmax(dim=1)
        accuracy = (predicted == torch.tensor(test.labels)).double().mean().item()
        assert accuracy == pytest.approx(trial["test_accuracy"], abs=1e-9)
