"""Sweeps on a Ray cluster of two nodes: several workers per trial, and room that is too small."""

from __future__ import annotations

import os
import signal

import pytest
from processes import trial_workers
from ray_nodes import ray_nodes

pytestmark = pytest.mark.slow

IS_LONG = "PAS_CHAOS_FAULTS" in os.environ
TRIALS_PER_CELL = 4 if IS_LONG else 1


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
        "--set", "search.epochs=1", "--set", "finetune.epochs=2",
    ]  # fmt: skip


def test_two_workers_train_each_trial_of_a_sweep(pas, cluster):
    options = on_two_workers(pas, cluster, TRIALS_PER_CELL)
    trials = by_id(pas.json(*options))
    assert len(trials) == 2 * TRIALS_PER_CELL
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
    one_trial = ("--set", "budget.limits=[0.5]", "--set", "finetune.epochs=8")
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
