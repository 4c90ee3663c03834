"""A sweep whose workers, node, driver and servers are killed ends as if undisturbed.

A short form by default; ``make chaos`` runs the long one (``PAS_CHAOS_FAULTS``).
"""

from __future__ import annotations

import hashlib
import os
import random

import pytest
from chaos import Stage
from mlflow import MlflowClient
from ray_nodes import ray_nodes
from tracking_servers import TrackingServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

KINDS = ("worker", "driver", "node")
NUM_FAULTS = int(os.environ.get("PAS_CHAOS_FAULTS", "3"))
SEED = int(os.environ.get("PAS_CHAOS_SEED", "0"))
IS_LONG = len(KINDS) < NUM_FAULTS
OUTAGE_S = 60.0 if IS_LONG else 4.0
LONG = ("--set", "trials_per_cell=12", "--set", "hyperparameters={}", "--set", "finetune.epochs=20")


@pytest.fixture
def server(tmp_path):
    server = TrackingServer(tmp_path).start()
    yield server
    server.kill()


@pytest.fixture
def undisturbed(finished, make_pas, tmp_path_factory):
    """The same sweep with nobody in its way."""
    if not IS_LONG:
        return finished
    pas = make_pas(tmp_path_factory.mktemp("undisturbed"))
    assert pas("sweep", str(pas.file), *LONG, timeout=1800).returncode == 0
    return pas


def faults() -> list[str]:
    """Every kind in turn, in random order, and one outage of the tracking server."""
    chosen = [KINDS[i % len(KINDS)] for i in range(NUM_FAULTS)] + ["tracking"]
    random.Random(SEED).shuffle(chosen)
    return chosen


def outcome(trial):
    """What a trial's result is, without what is measured in seconds."""
    names = ("status", "macs", "num_params", "accuracy", "test_accuracy", "training_macs")
    return {name: trial[name] for name in names} | {"widths": trial["widths"]}


def weights_of(pas):
    return {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in pas.home.glob("sweeps/*/trials/*/weights.safetensors")
    }


def test_a_sweep_survives_the_loss_of_every_part(undisturbed, pas, server):
    options = LONG if IS_LONG else ()
    with ray_nodes(os.cpu_count()) as cluster:  # as undisturbed: the supernet's threads
        tracking = ("--set", f"tracking.uri={server.url}")
        stage = Stage(
            pas,
            cluster,
            (*options, *tracking, "--address", cluster.address),
            {"tracking": server},
            OUTAGE_S,
            SEED,
        )
        try:
            stage.survive(faults(), mean_s=8 if IS_LONG else 4, timeout_s=3000)
        finally:
            stage.close()
    assert "Traceback" not in stage.log.read_text()
    assert sorted(stage.done) == sorted(faults())
    wanted = undisturbed.json("status", "tiny")
    found = pas.json("status", "tiny")
    assert found["sweep_id"] == wanted["sweep_id"]
    assert {t["trial_id"]: outcome(t) for t in found["trials"]} == {
        t["trial_id"]: outcome(t) for t in wanted["trials"]
    }
    assert weights_of(pas) == weights_of(undisturbed)
    check_runs(server.url, [trial["trial_id"] for trial in wanted["trials"]])
    check_files(pas.home, undisturbed.home)


def check_runs(url, trial_ids):
    """Every trial has one run, with every epoch once; no run is RUNNING."""
    client = MlflowClient(url)
    (experiment,) = [e for e in client.search_experiments() if e.name == "tiny"]
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    trials = [run for run in runs if "pas.trial_id" in run.data.tags]
    assert sorted(run.data.tags["pas.trial_id"] for run in trials) == sorted(trial_ids)
    assert len(runs) == len(trials) + 1
    for run in trials:
        steps = [m.step for m in client.get_metric_history(run.info.run_id, "epoch_accuracy")]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) >= 15


def check_files(home, like):
    """The same files as after an undisturbed sweep, the tracking store's left out."""

    def files(root):
        ours = [*root.glob("sweeps/**/*"), *root.glob("supernets/**/*")]
        return sorted(str(path.relative_to(root)) for path in ours)

    assert files(home) == files(like)
