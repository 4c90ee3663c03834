"""A sweep whose nodes and drivers share nothing but an object store."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal

import pytest
from ray_nodes import ray_nodes
from tracked_sweeps import load_records

from deploy import content_hash, save_package
from orchestrator.cells import Cell, trial_config
from orchestrator.home import Home
from orchestrator.judging import Request
from orchestrator.loading import load_sweep
from orchestrator.node_files import node_folder
from orchestrator.promotion import promote
from pas_trainer import TrialResult, run_search

pytestmark = pytest.mark.slow

SHORT = [
    *("--set", "pretrain.epochs=3", "--set", "search.epochs=1", "--set", "finetune.epochs=3"),
    *("--set", "trials_per_cell=3", "--set", "budget.limits=[0.5]"),
    *("--set", "resources.max_concurrent_trials=2"),
]
SMALL = {"architecture.json", "result.json"}
PACKAGE = {*SMALL, "weights.safetensors", "training_weights.safetensors"}


def test_a_killed_driver_is_followed_by_one_with_an_empty_home(
    pas, make_pas, object_store, tmp_path, monkeypatch
):
    uri = object_store.upload({}, "some/prefix")
    options = [*SHORT, "--set", f"storage.uri={uri}"]
    for name in ("elsewhere", "node 1", "node 2"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("PAS_CACHE", str(tmp_path / "node 1"))
    with ray_nodes(1) as cluster:
        monkeypatch.setenv("PAS_CACHE", str(tmp_path / "node 2"))
        cluster.add_node(num_cpus=1)
        address = ["--address", cluster.address]
        driver = pas.start_until(": FINISHED", "sweep", str(pas.file), *options, *address)
        begun = next(m for line in driver.stderr if (m := re.match(r"(\S+): finetune 1/", line)))[1]
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        before = results(object_store, uri)
        assert 1 <= len(before) < 3
        assert begun not in before
        assert not [*pas.home.rglob("checkpoint*"), *pas.home.rglob("*.safetensors")]
        assert [*pas.home.glob("supernets/*/supernet.json")]
        shutil.rmtree(pas.home)

        second = make_pas(tmp_path / "elsewhere")
        (lock,) = [name for name in object_store.objects(uri) if name.endswith("/lock")]
        object_store.make_older(uri, lock, 120)  # two minutes later
        done = second.here("sweep", str(pas.file), *options, *address, "--json")
    assert done.returncode == 0, done.stderr
    assert f"{begun}: search" not in done.stderr  # it went on from its last epoch
    for trial_id, result in before.items():
        assert f"{trial_id}: started" not in done.stderr
        assert results(object_store, uri)[trial_id] == result

    trials = {trial["trial_id"]: trial for trial in json.loads(done.stdout)["trials"]}
    assert len(trials) == 3
    assert {trial["status"] for trial in trials.values()} == {"FINISHED"}
    left = dict.fromkeys(trials, frozenset()) | left_of_trials(object_store, uri)
    assert left == {t: PACKAGE if trials[t]["on_front"] else SMALL for t in trials}
    others = {name.rpartition("/")[2] for name in object_store.objects(uri) if "trials" not in name}
    assert others == {"sweep.json", "usage.json", "supernet.json", "supernet.safetensors"}
    copies = [len(list(tmp_path.glob(f"node {n}/staged/*/supernet.safetensors"))) for n in (1, 2)]
    assert max(copies) == 1  # once per node; a node may have had no trial
    assert left_on_nodes(tmp_path, monkeypatch) == {"lock"}
    assert not list(second.home.rglob("*.safetensors"))

    (best, *_) = sorted((t for t in trials.values() if t["on_front"]), key=lambda t: -t["accuracy"])
    home = Home(second.home)
    records = load_records(home.mlflow_uri, "tiny")
    request = Request(model_name="m", limit=0.5)
    outcome = promote(home, records, request, tracking_uri=home.mlflow_uri)
    assert (outcome.refused, outcome.record.trial_id) == ([], best["trial_id"])

    whole = undisturbed(pas.file, options, trials[begun], object_store, uri, tmp_path)
    assert whole.score == trials[begun]["accuracy"]
    assert whole.widths == trials[begun]["widths"]
    if trials[begun]["on_front"]:
        save_package(tmp_path / "whole", whole.architecture, whole.network)
        interrupted = stored_folder(object_store, uri, begun, tmp_path / "apart")
        assert content_hash(interrupted) == content_hash(tmp_path / "whole")


def results(object_store, uri) -> dict[str, bytes]:
    objects = object_store.objects(uri).items()
    return {k.split("/")[-2]: v for k, v in objects if k.endswith("/result.json")}


def left_of_trials(object_store, uri) -> dict[str, set[str]]:
    names = [name.split("/") for name in object_store.objects(uri) if "/trials/" in name]
    return {trial: {n for _, _, _, t, n in names if t == trial} for _, _, _, trial, _ in names}


def left_on_nodes(folder, monkeypatch) -> set[str]:
    """Return what is below the nodes' working folders once each node has begun another trial.

    That clears away what killed workers left there.
    """
    for n in (1, 2):
        monkeypatch.setenv("PAS_CACHE", str(folder / f"node {n}"))
        with node_folder():
            assert len(list(folder.glob(f"node {n}/.work/*"))) == 3
    return {path.name for path in folder.glob("node */.work/*")}


def stored_folder(object_store, uri, within, folder):
    """Bring what lies in a folder of the store."""
    folder.mkdir()
    for name, content in object_store.objects(uri).items():
        if f"/{within}/" in name:
            (folder / name.rpartition("/")[2]).write_bytes(content)
    return folder


def undisturbed(file, options, trial, object_store, uri, folder) -> TrialResult:
    """Run a trial here, from beginning to end."""
    config = load_sweep(file, options[1::2])
    (key,) = {n.split("/")[1] for n in object_store.objects(uri) if n.startswith("supernets/")}
    supernet = stored_folder(object_store, uri, key, folder / "supernet")
    cell = Cell(trial["budget"], trial["strength"])
    chosen = trial["hyperparameters"]
    return run_search(trial_config(config, cell, trial["number"], chosen), supernet)
