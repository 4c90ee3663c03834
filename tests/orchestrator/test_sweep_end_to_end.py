"""Sweeps on real Ray, Optuna and MLflow: results, resumption, promotion, the UI."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
import requests
from mlflow import MlflowClient
from PIL import Image

pytestmark = pytest.mark.slow


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


def weights_of(pas) -> dict[str, str]:
    return {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in pas.home.glob("sweeps/*/trials/*/weights.safetensors")
    }


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
        assert [m.step for m in history] == list(range(1, 16))
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


def test_a_sweep_killed_half_way_ends_as_if_undisturbed(finished, pas):
    driver = subprocess.Popen(
        pas.command("sweep", str(pas.file)),
        env=pas.environment,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 400
    while not list(pas.home.glob("sweeps/*/trials/*/result.json")):
        assert time.monotonic() < deadline
        assert driver.poll() is None
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    ended = {p: p.stat().st_mtime_ns for p in pas.home.glob("sweeps/*/trials/*/result.json")}
    assert 1 <= len(ended) < 4
    done = pas("sweep", str(pas.file))
    assert done.returncode == 0, done.stderr
    assert {p: p.stat().st_mtime_ns for p in ended} == ended
    _, sweep, trials = runs_of(pas)
    assert sorted(t.data.tags["pas.trial_id"] for t in trials) == [
        "b0.25-s10-0",
        "b0.25-s10-1",
        "b0.5-s10-0",
        "b0.5-s10-1",
    ]
    assert {r.info.status for r in [sweep, *trials]} == {"FINISHED"}
    assert [t.state.name for t in optuna_trials(pas)] == ["COMPLETE"] * 4
    assert weights_of(pas) == weights_of(finished)


def trial_worker_of(driver: subprocess.Popen) -> int | None:
    """Process id of a worker that trains a trial for this driver, its ancestor."""
    parents, workers = {}, []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            stat = (process / "stat").read_text()
            title = (process / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended meanwhile
        parents[int(process.name)] = int(stat.rpartition(")")[2].split()[1])
        if title.startswith(b"ray::ImplicitFunc"):
            workers.append(int(process.name))
    for worker in workers:
        ancestor = worker
        while ancestor in parents and ancestor != driver.pid:
            ancestor = parents[ancestor]
        if ancestor == driver.pid:
            return worker
    return None


def test_a_trial_whose_worker_dies_goes_on_in_another(finished, pas):
    driver = pas.start_until("finetune 2/", "sweep", str(pas.file))
    assert driver.stderr is not None
    worker = trial_worker_of(driver)
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    for _ in driver.stderr:
        pass
    assert driver.wait(timeout=240) == 0
    _, _, trials = runs_of(pas)
    assert len(trials) == 4
    assert {t.info.status for t in trials} == {"FINISHED"}
    assert weights_of(pas) == weights_of(finished)


def test_an_interrupted_sweep_says_so_and_leaves_no_run_running(pas):
    driver = subprocess.Popen(
        pas.command("sweep", str(pas.file)),
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


def test_two_drivers_exclude_each_other_and_the_first_can_be_stopped(pas):
    first = pas.start_until("supernet: epoch", "sweep", str(pas.file))
    second = pas("sweep", str(pas.file))
    assert second.returncode == 2
    assert "is being run by another process" in second.stderr
    assert pas.json("stop", "tiny")["was_running"]
    first.communicate(timeout=60)
    assert first.returncode == 130
    assert runs_of(pas)[1].info.status == "KILLED"
    log = pas("logs", "tiny").stdout.splitlines()
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
    shown = finished("compare", "tiny").stdout
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
    done = subprocess.run(
        [finished.command()[0], "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip().endswith("(3, 10)"), done.stderr
    again = finished.json("promote", "tiny", "--budget", "0.5", "--model", "m")
    assert again["version"] == promoted["version"]
    refused = finished("promote", "tiny", "--budget", "0.01", "--model", "m")
    assert refused.returncode == 2
    assert "no front member is that cheap" in refused.stderr


def test_one_trial_runs_without_ray_or_a_server(pas):
    record = pas.json("search", str(pas.file), "--budget", "0.3", "--strength", "5")
    assert record["status"] == "FINISHED"
    assert 0.97 * 0.3 <= record["macs_ratio"] <= 0.3
    assert (Path(record["folder"]) / "weights.safetensors").exists()
    assert not (pas.home / "mlflow.db").exists()
    again = pas.json("search", str(pas.file), "--budget", "0.3", "--strength", "5")
    assert again["accuracy"] == record["accuracy"]


def test_a_network_of_torchvision_goes_from_images_to_plain_mlflow(pas):
    """Another's network on coloured image files: searched, promoted, loaded without our code."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 10)):
        for channel, name in ((0, "red"), (2, "blue")):
            (pas.file.parent / "images" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 128, (32, 32, 3), np.uint8)
                pixels[..., channel] += 127
                file = pas.file.parent / "images" / split / name / f"{i}.png"
                Image.fromarray(pixels).save(file)
    pas.file.write_text(NETWORK_SWEEP)
    (trial,) = pas.json("sweep", str(pas.file))["trials"]
    assert trial["status"] == "FINISHED"
    assert 0.97 * 0.4 <= trial["macs_ratio"] <= 0.4
    assert trial["num_params"] < 0.9 * 1_519_906  # the supernet's, with two classes
    promoted = pas.json("promote", "tiny", "--budget", "0.4", "--model", "net")
    assert promoted["trial"]["trial_id"] == trial["trial_id"]
    images = [np.asarray(Image.open(f)) for f in sorted(pas.file.parent.glob("images/test/*/*"))]
    np.save(pas.home / "x.npy", np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / 255)
    code = (
        "import mlflow, numpy as np, sys\n"
        "sys.modules['search_space'] = sys.modules['deploy'] = sys.modules['torchvision'] = None\n"
        f"mlflow.set_tracking_uri('sqlite:///{pas.home / 'mlflow.db'}')\n"
        "m = mlflow.pyfunc.load_model('models:/net@champion')\n"
        f"predicted = m.predict(np.load({str(pas.home / 'x.npy')!r})).argmax(axis=1)\n"
        "print('correct', (predicted == np.repeat([0, 1], 10)).mean())\n"
    )
    done = subprocess.run(
        [pas.command()[0], "-c", code], capture_output=True, text=True, check=False
    )
    assert f"correct {trial['test_accuracy']}" in done.stdout, done.stderr


NETWORK_SWEEP = """
name: tiny
data: {name: imagefolder, root: images, image_size: 32, validation: 0.2}
supernet: {name: "torchvision:mobilenet_v3_small", options: {stem: cifar}}
budget: {limits: [0.4], also: {num_params: 0.9}}
strengths: [10]
optimizer: {batch_size: 16}
pretrain: {epochs: 2}
search: {epochs: 2}
finetune: {epochs: 2, recalibration_batches: 4}
"""


def test_a_limit_on_latency_goes_by_one_table(pas):
    """Measured when the sweep is planned, kept with it, and used when it is resumed."""
    sets = [
        *("--set", "budget={resource: latency_ms, limits: [0.75], also: {num_params: 0.8}}"),
        *("--set", "latency={seconds: 2}", "--set", "trials_per_cell=1"),
        *("--set", "supernet.options.width=2", "--set", "pretrain.epochs=3"),
        *("--set", "search.epochs=2", "--set", "finetune.epochs=2"),
    ]
    first = pas.json("sweep", str(pas.file), *sets)
    (trial,) = first["trials"]
    (sweep,) = pas.home.glob("sweeps/*")
    table = (sweep / "latency.json").read_text()
    shutil.rmtree(pas.home / "latency")
    plan = pas.json("sweep", str(pas.file), *sets, "--dry-run")
    assert plan["supernet_latency_ms"] > 0
    limit = plan["limits"]["0.75"]
    assert trial["predicted_latency_ms"] <= limit
    uses = trial["predicted_latency_ms"] / limit, trial["num_params"] / (0.8 * 278_474)
    assert max(uses) >= 0.97 * (1 - 1e-3)
    more = pas.json("extend", "tiny", "--strength", "1")
    assert {t["trial_id"] for t in more["trials"]} == {"b0.75-s1-0", "b0.75-s10-0"}
    (kept,) = [t for t in more["trials"] if t["trial_id"] == trial["trial_id"]]
    assert {**kept, "on_front": None} == {**trial, "on_front": None}  # not run twice
    refused = pas("sweep", str(pas.file), *sets, "--set", "seed=1")
    assert refused.returncode == 2
    assert "seed: 0 -> 1" in refused.stderr
    assert (sweep / "latency.json").read_text() == table
    assert not (pas.home / "latency").exists()
    front = pas.json("pareto", "tiny")
    assert front["resource"] == "latency_ms"
    best = max(front["trials"], key=lambda t: t["accuracy"])
    absolute = f"{limit} ms"
    promoted = pas.json("promote", "tiny", "--budget", absolute, "--model", "fast")
    assert promoted["trial"]["trial_id"] == best["trial_id"]
    assert promoted["cost"] == best["predicted_latency_ms"]


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
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=30) == 130


def test_predictions_survive_the_journey(finished):
    """Reported test accuracy equals what the stored package classifies."""
    from deploy import DeployedClassifier, load_package
    from pas_trainer import DataConfig, open_sources

    test = open_sources(DataConfig(name="digits", validation=0.25)).test
    images = np.stack([np.asarray(i, np.float32).transpose(2, 0, 1) for i in test.images]) / 255
    import torch

    for trial in finished.json("pareto", "tiny")["trials"]:
        folder = finished.home / "sweeps" / trial["sweep_id"] / "trials" / trial["trial_id"]
        network = DeployedClassifier(*load_package(folder)).eval()
        with torch.no_grad():
            predicted = network(torch.from_numpy(images)).argmax(dim=1)
        accuracy = (predicted == torch.tensor(test.labels)).double().mean().item()
        assert accuracy == pytest.approx(trial["test_accuracy"], abs=1e-9)


def test_trials_that_fall_behind_in_their_cell_are_stopped_and_told_as_pruned(pas):
    sets = [
        *("--set", "budget.limits=[0.3]", "--set", "trials_per_cell=6"),
        *("--set", "scheduler={name: asha, grace_epochs: 1, reduction_factor: 2}"),
        *("--set", "hyperparameters.learning_rate={low: 0.0001, high: 0.1, log: true}"),
    ]
    done = pas("sweep", str(pas.file), *sets)
    assert done.returncode == 0, done.stderr
    _, _, trials = runs_of(pas)
    ours = [t.data.tags["pas.status"] for t in trials]
    assert set(ours) == {"FINISHED", "PRUNED"}
    assert {t.info.status for t in trials} == {"FINISHED"}  # MLflow has no word for pruned
    states = [t.state.name for t in optuna_trials(pas)]
    assert states.count("PRUNED") == ours.count("PRUNED")
    assert states.count("COMPLETE") == ours.count("FINISHED")
    for trial in pas.json("compare", "tiny")["trials"]:
        assert (trial["status"] == "PRUNED") == (trial["accuracy"] is None)


def test_a_trial_that_cannot_write_stops_the_sweep_resumably(pas):
    sweep_id = pas.json("sweep", str(pas.file), "--dry-run")["sweep_id"]
    in_the_way = pas.home / "sweeps" / sweep_id / "trials" / "b0.5-s10-0"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("not a folder")
    stopped = pas("sweep", str(pas.file))
    assert stopped.returncode == 2
    assert "sweep stopped" in stopped.stderr
    assert "b0.5-s10-0" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    in_the_way.unlink()
    assert len(pas.json("sweep", str(pas.file))["trials"]) == 4
    _, _, trials = runs_of(pas)
    assert {t.info.status for t in trials} == {"FINISHED"}
    assert len(trials) == 4
