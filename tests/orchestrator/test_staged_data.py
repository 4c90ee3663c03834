from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from object_stores import image_folder

from deploy.node_cache import NodeCache
from orchestrator import worker
from orchestrator.cells import Cell, TrialJob, control_config, controls_of, trial_config
from orchestrator.errors import UserError
from orchestrator.loading import load_sweep, parse_sweep
from orchestrator.preflight import describe, make_plan, sweep_graph
from orchestrator.staged_data import bring_data, cache_folder
from pas_trainer import DataError, content_key, load_data, open_sources

FILES = image_folder(num_train=10, num_test=3)


@pytest.fixture
def uri(object_store, tmp_path, monkeypatch):
    monkeypatch.setenv("PAS_CACHE", str(tmp_path / "cache"))
    return object_store.upload(FILES)


def sweep(root, **sections):
    document = {
        "name": "staged",
        "data": {"name": "imagefolder", "root": str(root), "image_size": 8},
        "supernet": {"name": "repvgg_tiny", "options": {"width": 0.5}},
        "budget": {"limits": [0.5]},
        "strengths": [10],
    }
    return parse_sweep({**document, **sections}, "test")


def at_another_node(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PAS_CACHE", str(tmp_path / "another node"))
    return tmp_path / "another node"


def test_a_plan_is_that_of_the_same_images_in_a_folder(uri, tmp_path):
    for name, content in FILES.items():
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    told: list[str] = []
    staged, local = make_plan(sweep(uri), told.append), make_plan(sweep(tmp_path / "images"))
    for field in ("num_train", "num_validation", "num_test", "limits"):
        assert getattr(staged, field) == getattr(local, field)
    assert staged.supernet_training.data.root == uri
    assert describe(staged)["data_version"] == staged.data_version
    assert "data_version" not in describe(local)
    assert told[-1].startswith(f"data: staging {uri}, 26 of 26 objects, 0 of 0 MiB")


def test_what_is_the_same_everywhere_does_not_depend_on_the_cache(uri, tmp_path, monkeypatch):
    config = sweep(uri)
    here = make_plan(config)
    cache = at_another_node(tmp_path, monkeypatch)
    there = make_plan(config)
    assert NodeCache(cache).folder(there.data_version).is_dir()
    assert here.supernet_key == there.supernet_key
    trial = trial_config(config, Cell(0.5, 10.0), 0, {})
    assert str(tmp_path) not in str(dataclasses.asdict(trial))
    assert content_key(trial) == content_key(trial_config(sweep(uri), Cell(0.5, 10.0), 0, {}))
    assert str(tmp_path) not in str(config.model_dump(mode="json")) + str(describe(there))


def test_the_supernet_follows_the_content(uri, object_store):
    before, images = make_plan(sweep(uri)), load_data(sweep(uri).data).train.images
    name = "train/cat/image 0.png"
    other = image_folder(num_train=10, num_test=3, seed=1)[name]
    assert len(other) == len(FILES[name])  # names and sizes do not tell
    object_store.put(uri, name, other)
    after = make_plan(sweep(uri))
    assert before.config.sweep_id == after.config.sweep_id
    assert before.supernet_key != after.supernet_key
    # Images that are kept in memory are those of the place that counts now.
    assert not load_data(sweep(uri).data).train.images.equal(images)
    bring_data(sweep(uri).data, before.data_version)
    assert load_data(sweep(uri).data).train.images.equal(images)


def test_what_is_wrong_with_the_images_is_told_by_their_address(uri, object_store):
    for label in ("cat", "dog"):
        object_store.put(uri, f"train/{label}/odd.png", b"no image")
    config = sweep(uri)
    make_plan(config)
    with pytest.raises(DataError, match=rf"cannot decode image {uri}/train/\w+/odd.png \("):
        load_data(config.data)
    object_store.put(uri, "train/cow/1.png", b"")
    with pytest.raises(UserError, match=f"data: {uri}/train and {uri}/test differ in class fol"):
        make_plan(config)


def test_what_cannot_be_staged_is_told_before_anything_else(uri):
    with pytest.raises(UserError) as error:
        make_plan(sweep("s3://nobody/data"))
    assert str(error.value).startswith("data: data.root is s3://nobody/data, but there is no buck")


def test_a_sweep_is_looked_at_with_the_images_it_was_planned_with(uri, object_store):
    plan = make_plan(sweep(uri))
    object_store.put(uri, "train/cow/0.png", b"")
    assert sweep_graph(plan.config, plan.data_version).count_macs() == plan.graph.count_macs()


@pytest.fixture
def job(uri, tmp_path) -> TrialJob:
    plan = make_plan(sweep(uri, controls=["uniform"]))
    (control,) = controls_of(plan.config, plan.limits)
    return TrialJob(
        trial_id="t",
        sweep_id="s",
        cell=control.cell,
        number=0,
        hyperparameters={},
        config=control_config(plan.config, control),
        supernet_folder=tmp_path / "supernet",
        folder=tmp_path / "trial",
        num_threads=1,
        data_version=plan.data_version,
    )


def test_a_worker_stages_on_its_own_node(job, uri, tmp_path, monkeypatch):
    cache = at_another_node(tmp_path, monkeypatch)
    opened = []

    def open_and_give_up(config, *_args, **_kwargs):
        opened.append(open_sources(config.trial.data))
        raise DataError("enough")

    monkeypatch.setattr(worker, "run_control", open_and_give_up)
    worker.run_trial_job(job, print)
    assert opened[0].version == job.data_version
    assert all(path.is_relative_to(cache) for path in opened[0].train.images)


def test_a_worker_that_finds_other_objects_stops_the_sweep(
    job, uri, object_store, tmp_path, monkeypatch
):
    at_another_node(tmp_path, monkeypatch)
    object_store.put(uri, "train/cat/new.png", b"x")
    reports: list[dict] = []
    worker.run_trial_job(job, reports.append)
    (report,) = reports
    assert report["stop_sweep"].startswith(f"data.root is {uri}, whose objects have changed since")
    assert worker.read_result(job) is None


def test_a_process_that_has_staged_nothing_says_so():
    with pytest.raises(DataError, match="s3://some/where, whose files have not been staged"):
        open_sources(sweep("s3://some/where").data)


def test_where_the_cache_is_and_what_it_may_hold(uri, tmp_path, monkeypatch):
    monkeypatch.setenv("PAS_CACHE_GIB", "0.00001")
    with pytest.raises(UserError, match=r"may hold 0 MiB in all \(PAS_CACHE_GIB\)"):
        make_plan(sweep(uri))
    monkeypatch.setenv("PAS_CACHE_GIB", "plenty")
    with pytest.raises(UserError, match="PAS_CACHE_GIB is 'plenty'; set it to a positive number"):
        make_plan(sweep(uri))
    monkeypatch.delenv("PAS_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "pas-orchestrator"


def test_addresses_in_a_sweep_file_stay_as_they_are(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep("s3://bucket/some/prefix").model_dump(mode="json")))
    assert load_sweep(path).data.root == "s3://bucket/some/prefix"


@pytest.mark.parametrize(
    ("name", "root", "told"),
    [
        (
            "imagefolder",
            "s3://key:hidden@bucket/x",
            "data.*root must not hold credentials; set AWS",
        ),
        (
            "imagefolder",
            "gs://bucket/x",
            "root is 'gs://bucket/x'; imagefolder reads a folder or s3",
        ),
        ("imagefolder", "s3:///x", "root is 's3:///x'; write s3://bucket/prefix"),
        ("cifar10", "s3://bucket/x", "root is 's3://bucket/x'; cifar10 reads a folder"),
    ],
)
def test_addresses_that_cannot_be_used_are_refused(name, root, told):
    with pytest.raises(UserError, match=told) as error:
        sweep(root, data={"name": name, "root": root, "image_size": 8})
    assert "hidden" not in str(error.value)


@pytest.mark.slow
def test_a_sweep_on_an_object_store_runs_and_is_promoted(pas, object_store, tmp_path, monkeypatch):
    monkeypatch.setenv("PAS_CACHE", str(tmp_path / "cache"))
    root = object_store.upload(image_folder(num_train=20, num_test=5))
    document = yaml.safe_load(pas.file.read_text()) | {
        "data": {"name": "imagefolder", "root": root, "image_size": 8, "validation": 0.25},
        "budget": {"limits": [0.5]},
        "trials_per_cell": 1,
        "optimizer": {"batch_size": 10},
        **{phase: {"epochs": 1} for phase in ("pretrain", "search", "finetune")},
    }
    pas.file.write_text(yaml.safe_dump(document))
    done = pas("sweep", str(pas.file), "--json")  # its workers see the store's settings
    assert done.returncode == 0, done.stderr
    (trial,) = json.loads(done.stdout)["trials"]
    assert trial["status"] == "FINISHED"
    assert len(object_store.fetched) == 50
    pas.json("promote", "tiny", "--budget", "0.5", "--model", "m")
    assert len(object_store.fetched) == 50
    (version,) = NodeCache(tmp_path / "cache")._versions()
    assert not list(pas.home.rglob(f"*{version}*"))
