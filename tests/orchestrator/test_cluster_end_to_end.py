"""Sweeps on a Ray cluster of two nodes: several workers per trial, and room that is too small."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from processes import trial_workers
from ray_nodes import ray_nodes

pytestmark = pytest.mark.slow

IS_LONG = "PAS_CHAOS_FAULTS" in os.environ
TRIALS_PER_CELL = 8 if IS_LONG else 1


@pytest.fixture(scope="module")
def cluster():
    with ray_nodes(2, 2) as cluster:
        yield cluster


def by_id(document):
    return {trial["trial_id"]: trial for trial in document["trials"]}


def on_two_workers(pas, cluster, trials_per_cell):
    return [
        "sweep", str(pas.file), "--address", cluster.address,
        "--set", "resources.workers_per_trial=2", "--set", "resources.cpus_per_trial=2",
        "--set", f"trials_per_cell={trials_per_cell}", "--set", "pretrain.epochs=6",
        "--set", "search.epochs=1", "--set", "finetune.epochs=2", "--set", "budget.limits=[0.5]",
        "--set", "resources.max_concurrent_trials=2",
    ]  # fmt: skip


def test_two_workers_train_each_trial_of_a_sweep(pas, cluster):
    options = on_two_workers(pas, cluster, TRIALS_PER_CELL)
    trials = by_id(pas.json(*options))
    assert len(trials) == TRIALS_PER_CELL
    assert {trial["status"] for trial in trials.values()} == {"FINISHED"}
    for trial in trials.values():
        assert 0.97 * trial["budget"] <= trial["macs_ratio"] <= trial["budget"]
        assert trial["accuracy"] > 0.5
        seconds = trial["search_seconds"] + trial["finetune_seconds"]
        assert trial["cpu_seconds"] == pytest.approx(2 * seconds)
    assert not list(pas.home.rglob("checkpoint.pt"))
    assert not list(pas.home.glob("sweeps/*/trials/*/train"))
    assert by_id(pas.json(*options)) == trials  # nothing is run twice


@pytest.mark.skipif(not IS_LONG, reason="part of make chaos")
def test_one_of_two_workers_is_killed_and_the_trial_goes_on(pas, make_pas, tmp_path, cluster):
    (tmp_path / "undisturbed").mkdir()
    undisturbed = make_pas(tmp_path / "undisturbed")
    one_trial = ("--set", "finetune.epochs=8")
    (wanted,) = undisturbed.json(*on_two_workers(undisturbed, cluster, 1), *one_trial)["trials"]
    driver = pas.start_until("finetune 2/", *on_two_workers(pas, cluster, 1), *one_trial)
    workers = trial_workers(os.getpid(), b"ray::RayTrainWorker")
    assert len(workers) == 2
    os.kill(workers[-1], signal.SIGKILL)
    errors = driver.stderr.read()
    assert driver.wait() == 0, errors
    document = pas.json("status", "tiny")
    (found,) = document["trials"]
    for name in ("status", "macs", "widths", "accuracy", "test_accuracy", "training_macs"):
        assert found[name] == wanted[name]
    assert document["usage"]["hours"]["lost"] > 0


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("resources.cpus_per_trial=3", "a trial needs 3 CPUs and 0 GPUs"),
        ("resources.gpus_per_trial=1", "a trial needs 1 CPUs and 1 GPUs"),
    ],
)
def test_a_trial_that_fits_no_node_is_told_at_once(pas, cluster, override, told):
    done = pas.here("sweep", str(pas.file), "--address", cluster.address, "--set", override)
    assert done.returncode == 2
    assert told in done.stderr
    assert "the nodes of the cluster have 2 CPUs and 0 GPUs; 2 CPUs and 0 GPUs" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def shared_gpu():
    """A node that says it has a GPU; torch finds none there."""
    with ray_nodes(4, num_gpus=1) as cluster:
        yield cluster


def halves(pas, cluster, *options):
    quick = (
        *("pretrain.epochs=1", "search.epochs=1", "finetune.epochs=30", "trials_per_cell=1"),
        *("resources.gpus_per_trial=0.5", "resources.max_concurrent_trials=2"),
    )
    chosen = [word for setting in (*quick, *options) for word in ("--set", setting)]
    return pas.here("sweep", str(pas.file), "--address", cluster.address, *chosen)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds the GPU")
def test_a_booked_gpu_that_torch_cannot_use_stops_the_sweep(pas, shared_gpu):
    done = halves(pas, shared_gpu)
    assert done.returncode == 2
    assert "supernet: a trial books 0.5 GPUs, but torch finds no GPU on" in done.stderr
    assert "Traceback" not in done.stderr


def test_trials_of_half_a_gpu_run_two_at_a_time(pas, shared_gpu):
    done = halves(pas, shared_gpu, "device=cpu")
    assert done.returncode == 0, done.stderr
    running, most = 0, 0
    for line in done.stderr.splitlines():
        running += line.endswith(": started") - (": FINISHED" in line)
        most = max(most, running)
    assert (running, most) == (0, 2)
    trials = pas.json("status", "tiny")["trials"]
    assert sum(t["gpu_seconds"] for t in trials) == pytest.approx(
        sum(t["cpu_seconds"] for t in trials) / 2
    )
