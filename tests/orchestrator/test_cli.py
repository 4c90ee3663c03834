"""Bad input: one sentence on stderr, exit code 2, no traceback, nothing trained."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from orchestrator import cli

SWEEP = """
name: tiny
data: {name: digits}
supernet: {name: repvgg_tiny}
budget: {limits: [0.5]}
strengths: [10]
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run ``pas`` in this process; returns exit code, stdout and stderr."""
    monkeypatch.setenv("PAS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "sweep.yaml").write_text(SWEEP)

    def invoke(*arguments: str):
        command = [a.replace("SWEEP_FILE", str(tmp_path / "sweep.yaml")) for a in arguments]
        monkeypatch.setattr(sys, "argv", ["pas", *command])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return SimpleNamespace(code=caught.value.code, out=captured.out, err=captured.err)

    return invoke


@pytest.fixture
def run_apart(pas):
    """As ``run``, in a process of its own: for commands that start Ray."""
    pas.file.write_text(SWEEP)

    def invoke(*arguments: str):
        done = pas(*[a.replace("SWEEP_FILE", str(pas.file)) for a in arguments])
        return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)

    return invoke


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "images"
    for split in ("train", "test"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for i in range(8):
                pixels = np.full((8, 8, 3), 20 * i, np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def refused(result, *parts: str) -> None:
    assert result.code == 2
    assert result.out == ""
    assert "Traceback" not in result.err
    sentence = [line for line in result.err.splitlines() if line.startswith("pas: ")]
    assert len(sentence) == 1, result.err
    for part in parts:
        assert part in sentence[0]


def test_a_dry_run_shows_the_plan_and_writes_nothing(run, tmp_path):
    result = run("sweep", "SWEEP_FILE", "--dry-run", "--json")
    plan = json.loads(result.out)
    assert result.code == 0
    assert plan["limits"] == {"0.5": 226112}
    assert plan["num_trials"] == 1
    assert not (tmp_path / "home" / "mlflow.db").exists()
    assert not list((tmp_path / "home").rglob("*.json"))


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("budget.limits=[1.5]", ["limit 1.5", "below", "floor"]),
        ("budget.limits=[1000000]", ["above the supernet's own 452224"]),
        ("budget.limits=[0.0005]", ["budget.limits", "below", "floor"]),
        ("budget.limits=[0]", ["limits has 0"]),
        ("supernet.name=vgg99", ["vgg99"]),
        ("data={name: imagefolder, root: nowhere, image_size: 8}", ["nowhere", "does not exist"]),
        ("data={name: cifar10, root: nowhere}", ["nowhere", "CIFAR-10"]),
        ("search.epochs=many", ["search.epochs", "many"]),
        ("resources.cpus=1", ["resources.cpus", "cpus_per_trial"]),
    ],
)
def test_what_cannot_run_is_refused_before_training(run, tmp_path, override, parts):
    refused(run("sweep", "SWEEP_FILE", "--set", override), *parts)
    assert not (tmp_path / "home" / "supernets").exists()


def test_a_class_folder_without_images_is_refused(run, images):
    (images / "train" / "c").mkdir()
    data = f"data={{name: imagefolder, root: {images}, image_size: 8}}"
    refused(run("sweep", "SWEEP_FILE", "--set", data), "c has no images")


def test_a_server_that_does_not_answer_is_refused_within_seconds(run):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    uri = f"tracking.uri=http://127.0.0.1:{port}"
    refused(run("sweep", "SWEEP_FILE", "--set", uri), "tracking.uri", str(port), "start it")


def test_a_server_that_hangs_is_refused_within_seconds(run):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"tracking.uri=http://127.0.0.1:{silent.getsockname()[1]}"
        refused(run("sweep", "SWEEP_FILE", "--set", uri), "did not answer within 5 s")


def test_a_full_disk_is_refused(run, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _p: usage._replace(free=2**20))
    refused(run("sweep", "SWEEP_FILE"), "has 1 MiB free", "PAS_HOME")


def test_a_home_that_cannot_be_made_is_refused(run, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PAS_HOME", str(tmp_path / "file" / "home"))
    refused(run("sweep", "SWEEP_FILE"), "cannot be created")


def test_a_gpu_that_is_not_there_is_refused(run, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused(run("sweep", "SWEEP_FILE", "--set", "device=cuda"), "finds no GPU")


@pytest.mark.slow
def test_more_cpus_than_the_cluster_has_are_refused_at_once(run_apart):
    result = run_apart("sweep", "SWEEP_FILE", "--set", "resources.cpus_per_trial=4096")
    refused(result, "cpus_per_trial is 4096", "only")


@pytest.mark.slow
def test_an_undecodable_image_stops_the_sweep_resumably(run_apart, images):
    broken = images / "train" / "b" / "3.png"
    good = broken.read_bytes()
    broken.write_bytes(b"broken")
    sets = [
        *("--set", f"data={{name: imagefolder, root: {images}, image_size: 8, validation: 0.3}}"),
        *("--set", "pretrain.epochs=1", "--set", "search.epochs=1", "--set", "finetune.epochs=1"),
        *("--set", "optimizer.batch_size=4"),
    ]
    refused(run_apart("sweep", "SWEEP_FILE", *sets), str(broken), "run the same command again")
    broken.write_bytes(good)
    result = run_apart("sweep", "SWEEP_FILE", "--json", *sets)
    assert result.code == 0, result.err
    assert [t["status"] for t in json.loads(result.out)["trials"]] == ["FINISHED"]


@pytest.mark.slow
def test_a_trial_that_diverges_fails_alone(run_apart):
    sets = [
        *("--set", "data.validation=0.2", "--set", "pretrain.epochs=1"),
        *(
            "--set",
            "search.epochs=1",
            "--set",
            "finetune.epochs=1",
            "--set",
            "strengths=[1, 1e300]",
        ),
        *("--set", "optimizer.warmup_epochs=0"),
    ]
    result = run_apart("sweep", "SWEEP_FILE", "--json", *sets)
    by_strength = {t["strength"]: t for t in json.loads(result.out)["trials"]}
    assert by_strength[1.0]["status"] == "FINISHED"
    assert by_strength[1e300]["status"] == "FAILED"
    assert "loss became" in by_strength[1e300]["error"]
    assert result.code == 1
    assert "1 of 2 trials failed" in result.err


@pytest.mark.parametrize("command", [["compare", "x"], ["pareto", "x"], ["status"], ["ui"]])
def test_an_empty_home_is_told(run, command):
    refused(run(*command), "no sweep has run in home folder")


def test_an_unreadable_option_is_a_usage_error(run):
    result = run("sweep", "SWEEP_FILE", "--no-such-option")
    assert result.code == 2
    assert "--no-such-option" in result.err
