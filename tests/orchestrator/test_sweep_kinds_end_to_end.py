"""Sweeps of other kinds on real Ray, Optuna and MLflow: networks, limits, stopping, errors."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sweep_stores import optuna_trials, runs_of

pytestmark = pytest.mark.slow


def test_one_trial_runs_without_ray_or_a_server(pas):
    record = pas.json("search", str(pas.file), "--budget", "0.3", "--strength", "5")
    assert record["status"] == "FINISHED"
    assert 0.97 * 0.3 <= record["macs_ratio"] <= 0.3
    assert (Path(record["folder"]) / "weights.safetensors").exists()
    assert not (pas.home / "mlflow.db").exists()
    again = pas.json("search", str(pas.file), "--budget", "0.3", "--strength", "5")
    assert again["accuracy"] == record["accuracy"]
    cell = ("--set", "strengths=[1, 2]", "--budget", str(record["macs"]), "--strength", "5")
    absolute = pas.json("search", str(pas.file), *cell, "--set", "finetune.epochs=1")
    assert absolute["folder"] != record["folder"]


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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
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
    refused = pas.here("sweep", str(pas.file), *sets, "--set", "seed=1")
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


def test_trials_that_fall_behind_in_their_cell_are_stopped_and_told_as_pruned(pas):
    sets = [
        *("--set", "budget.limits=[0.3]", "--set", "trials_per_cell=6"),
        *("--set", "scheduler={name: asha, grace_epochs: 1, reduction_factor: 2}"),
        *("--set", "hyperparameters.learning_rate={low: 0.0001, high: 0.1, log: true}"),
        *("--set", "pretrain.epochs=4", "--set", "search.epochs=1"),
    ]
    done = pas.here("sweep", str(pas.file), *sets)
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
    sets = ("--set", "pretrain.epochs=2", "--set", "search.epochs=1", "--set", "finetune.epochs=1")
    sweep = ("sweep", str(pas.file), *sets)
    sweep_id = pas.json(*sweep, "--dry-run")["sweep_id"]
    in_the_way = pas.home / "sweeps" / sweep_id / "trials" / "b0.5-s10-0"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("not a folder")
    stopped = pas.here(*sweep)
    assert stopped.returncode == 2
    assert "sweep stopped" in stopped.stderr
    assert "b0.5-s10-0" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    in_the_way.unlink()
    assert len(pas.json(*sweep)["trials"]) == 4
    _, _, trials = runs_of(pas)
    assert {t.info.status for t in trials} == {"FINISHED"}
    assert len(trials) == 4
