"""A sweep whose workers, node, driver and servers are killed ends as if undisturbed.

A short form by default; ``make chaos`` runs the long one (``PAS_CHAOS_FAULTS``).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import subprocess

import pytest
from chaos import Stage
from mlflow import MlflowClient
from ray_nodes import ray_nodes
from sweep_stores import optuna_trials
from tracking_servers import TrackingServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

KINDS = ("worker", "driver", "node")
NUM_FAULTS = int(os.environ.get("PAS_CHAOS_FAULTS", "3"))
SEED = int(os.environ.get("PAS_CHAOS_SEED", "0"))
IS_LONG = len(KINDS) < NUM_FAULTS
OUTAGE_S = 60.0 if IS_LONG else 4.0
TWO_AT_ONCE = ("--set", "resources.max_concurrent_trials=2")
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


class Endpoint:
    """The object store as a server that can be away."""

    def __init__(self, object_store) -> None:
        self._store = object_store

    def kill(self) -> None:
        self._store.away = True

    def start(self) -> None:
        self._store.away = False


def faults(servers) -> list[str]:
    """Every kind in turn, in random order, and one outage of each server."""
    chosen = [KINDS[i % len(KINDS)] for i in range(NUM_FAULTS)] + list(servers)
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
    survive(pas, {"tracking": server}, ["--set", f"tracking.uri={server.url}"])
    check_results(pas, undisturbed)
    check_runs(server.url, undisturbed)
    assert {trial.state.name for trial in optuna_trials(pas)} == {"COMPLETE"}
    assert weights_of(pas) == weights_of(undisturbed)
    assert files_of(pas.home) == files_of(undisturbed.home)


@pytest.mark.skipif(not IS_LONG, reason="part of make chaos")
def test_a_sweep_on_an_object_store_survives_it_too(undisturbed, pas, server, object_store):
    uri = object_store.upload({}, "sweeps")
    servers = {"tracking": server, "store": Endpoint(object_store)}
    survive(pas, servers, ["--set", f"tracking.uri={server.url}", "--set", f"storage.uri={uri}"])
    check_results(pas, undisturbed)
    check_runs(server.url, undisturbed)
    weights = {
        name.split("/")[-2]: hashlib.sha256(content).hexdigest()
        for name, content in object_store.objects(uri).items()
        if name.endswith("/weights.safetensors")
    }
    assert weights == weights_of(undisturbed)
    stored = {name.rpartition("/")[2] for name in object_store.objects(uri)}
    assert not stored & {"checkpoint.pt", "trial.json", "lock"}


def survive(pas, servers, options):
    """Run a sweep with everything killed in turn."""
    with ray_nodes(os.cpu_count()) as cluster:  # as undisturbed: the supernet's threads
        options = [*(LONG if IS_LONG else ()), *options, *TWO_AT_ONCE, "--address", cluster.address]
        stage = Stage(pas, cluster, options, servers, OUTAGE_S, SEED)
        try:
            stage.survive(faults(servers), mean_s=8 if IS_LONG else 4, timeout_s=3000)
        finally:
            stage.close()
    assert "Traceback" not in stage.log.read_text()
    assert sorted(stage.done) == sorted(faults(servers))


def check_results(pas, undisturbed):
    """Every trial has the result that it has undisturbed."""
    wanted, found = undisturbed.json("status", "tiny"), pas.json("status", "tiny")
    assert found["sweep_id"] == wanted["sweep_id"]
    assert {t["trial_id"]: outcome(t) for t in found["trials"]} == {
        t["trial_id"]: outcome(t) for t in wanted["trials"]
    }


def check_runs(url, undisturbed):
    """Every trial has one run, with every epoch once; no run is RUNNING."""
    trial_ids = [path.name for path in undisturbed.home.glob("sweeps/*/trials/*")]
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
        assert len(steps) >= 8


def files_of(home):
    """What the sweeps of a home folder have left, the tracking store apart."""
    found = [*home.glob("sweeps/**/*"), *home.glob("supernets/**/*")]
    return sorted(str(path.relative_to(home)) for path in found)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.skipif(not IS_LONG, reason="part of make chaos")
def test_a_full_disk_stops_the_sweep_and_loses_nothing(finished, pas, small_disk):
    pas.home = small_disk / "home"
    driver = pas.start_until("finetune 2/", "sweep", str(pas.file))
    assert driver.stderr is not None
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        with contextlib.suppress(OSError):
            while filler.write(bytes(2**20)):
                pass
        errors = driver.stderr.read()
        assert driver.wait() == 2, errors
    assert "disk is full" in errors
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    (small_disk / "filler").unlink()
    again = pas("sweep", str(pas.file))
    assert again.returncode == 0, again.stderr
    assert weights_of(pas) == weights_of(finished)
    check_runs(f"sqlite:///{pas.home}/mlflow.db", finished)
    assert files_of(pas.home) == files_of(finished.home)
