"""Trials whose nodes share nothing but an object store: what comes, what goes, and when."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
from pathlib import Path

import pytest
from object_stores import files_in

from deploy import object_store as store_module
from deploy import stored_files
from orchestrator import worker
from orchestrator.cells import Cell, TrialJob, trial_config
from orchestrator.home import Home
from orchestrator.loading import load_sweep
from orchestrator.node_files import node_folder, on_node, supernet_on_node, with_inputs
from orchestrator.worker import started, write_result
from pas_trainer import AnnealedConfig, DataError, DivergenceError
from search_space import Budget

DIGITS = Path(__file__).parents[2] / "examples" / "digits.yaml"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store_module, "ATTEMPTS", 1)
    monkeypatch.setattr(stored_files, "BACKOFF_S", (0.01,))
    return tmp_path / "cache"


@pytest.fixture
def uri(object_store, cache):
    uri = object_store.upload({"supernets/net/supernet.safetensors": b"w"}, "p")
    object_store.put(uri, "supernets/net/supernet.json", b"{}")
    object_store.calm()
    return uri


@pytest.fixture
def job(uri) -> TrialJob:
    home, cell = Home(Path("/of/the/driver")), Cell(0.5, 10.0)
    return TrialJob(
        trial_id=cell.trial_id(0),
        sweep_id="s-1",
        cell=cell,
        number=0,
        hyperparameters={"learning_rate": 0.1},
        config=trial_config(load_sweep(DIGITS), cell, 0, {}),
        supernet_folder=home.supernet("net"),
        folder=home.trial("s-1", "b0.5-s10-0"),
        num_threads=1,
        storage=uri,
    )


@pytest.fixture
def front(job) -> TrialJob:
    home, cell = Home(Path("/of/the/driver")), Cell(0.25, 10.0)
    config = AnnealedConfig(trial=job.config, further=(Budget(resource="macs", limit=0.25),))
    tight = dataclasses.replace(
        job, trial_id="b0.25-s10-0", cell=cell, folder=home.trial("s-1", "b0.25-s10-0")
    )
    return dataclasses.replace(tight, config=config, looser=(job,))


def stored(object_store, uri, trial_id="b0.5-s10-0") -> dict[str, bytes]:
    below = f"sweeps/s-1/trials/{trial_id}/"
    objects = object_store.objects(uri)
    return {k[len(below) :]: v for k, v in objects.items() if k.startswith(below)}


def save(job: TrialJob, content: bytes) -> None:
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "draft").write_bytes(content)
    (job.folder / "draft").replace(job.folder / "checkpoint.pt")


def finish(job: TrialJob) -> None:
    job.folder.mkdir(parents=True, exist_ok=True)
    for name in ("architecture.json", "weights.safetensors", "training_weights.safetensors"):
        (job.folder / name).write_text(name)
    write_result(job, started(job))


class Killed(BaseException):
    """The worker's process ends here."""


def test_a_trial_goes_on_at_another_node_from_its_last_epoch(object_store, uri, job, cache):
    def first(here, report):
        assert here.folder.is_relative_to(cache)
        assert not here.folder.exists()
        for epoch in (b"1", b"2"):
            save(here, epoch)
            report({})
            kept = {"checkpoint.pt": epoch}
            object_store.wait_until(lambda kept=kept: stored(object_store, uri) == kept)
        save(here, b"3")
        raise Killed

    with pytest.raises(Killed):
        on_node(job, lambda _: None, first)

    def second(here, report):
        assert (here.folder / "checkpoint.pt").read_bytes() == b"2"
        report({})
        finish(here)

    object_store.calm()
    on_node(job, lambda _: None, second)
    assert set(stored(object_store, uri)) == {
        "architecture.json", "weights.safetensors", "training_weights.safetensors", "result.json",
    }  # fmt: skip
    names = [path.rpartition("/")[2] for path in object_store.written]
    assert names[-3:] == ["result.json", "trial.json", "checkpoint.pt"]
    assert names.count("checkpoint.pt") == 1  # what was brought is not written back

    def third(here, report):
        assert (here.folder / "result.json").exists()

    object_store.calm()
    on_node(job, lambda _: None, third)
    assert object_store.written == []
    assert [path.name for path in (cache / ".work").iterdir()] == ["lock"]


def test_while_the_store_is_away_training_goes_on_and_nothing_is_lost(object_store, uri, front):
    reports = []

    def run(here, report):
        loose, tight = here.steps
        object_store.away = True
        save(tight, b"loose")
        report({"epoch": 1})
        finish(loose)
        save(tight, b"tight")
        report({"epoch": 2})
        assert len(reports) == 2
        finish(tight)
        object_store.away = False

    on_node(front, reports.append, run)
    assert set(stored(object_store, uri)) == set(stored(object_store, uri, "b0.25-s10-0"))
    written = [path.rpartition("trials/")[2] for path in object_store.written]
    assert written.index("b0.5-s10-0/result.json") < written.index("b0.25-s10-0/result.json")
    # A step that a killed worker leaves in a checkpoint must have all before it in the store.
    of_states = [i for i, name in enumerate(written) if name == "b0.25-s10-0/checkpoint.pt"]
    assert of_states[0] < written.index("b0.5-s10-0/result.json") < of_states[1]


def test_results_of_steps_outlive_what_breaks_a_later_one(object_store, uri, front):
    def run(here, report):
        finish(here.steps[0])
        raise DivergenceError("nan")

    with pytest.raises(DivergenceError):
        on_node(front, lambda _: None, run)
    assert "result.json" in stored(object_store, uri)

    def again(here, report):
        assert [(step.folder / "result.json").exists() for step in here.steps] == [True, False]

    on_node(front, lambda _: None, again)


def test_a_failure_is_kept_with_its_trace(object_store, uri, job, monkeypatch):
    def broken(*_args, **_kwargs):
        raise KeyError("surprise")

    monkeypatch.setattr(worker, "run_search", broken)
    worker.run_trial_job(job, print)
    left = stored(object_store, uri)
    assert set(left) == {"result.json", "error.txt"}
    assert json.loads(left["result.json"])["status"] == "FAILED"


def test_a_trial_that_begins_leaves_what_it_is(object_store, uri, job, monkeypatch):
    def search(config, supernet, *, report, checkpoint_folder):
        assert {path.name for path in supernet.iterdir()} == {
            "supernet.safetensors",
            "supernet.json",
        }
        raise DataError("enough")

    monkeypatch.setattr(worker, "run_search", search)
    reports: list[dict] = []
    worker.run_trial_job(job, reports.append)
    assert reports == [{"stop_sweep": "enough"}]
    (name,) = stored(object_store, uri)
    assert name == "trial.json"
    assert json.loads(stored(object_store, uri)[name]) == started(job).to_json()


def test_a_store_that_refuses_stops_the_sweep(object_store, job):
    job = dataclasses.replace(job, storage="s3://nobody/x")
    reports: list[dict] = []
    worker.run_trial_job(job, reports.append)
    (report,) = reports
    assert report["stop_sweep"].startswith("storage.uri is s3://nobody/x, but there is no bucket")


def test_the_latency_table_comes_too(object_store, uri, job):
    object_store.put(uri, "sweeps/s-1/latency.json", b"{}")
    table = "/of/the/driver/sweeps/s-1/latency.json"
    job = job.with_trial(dataclasses.replace(job.trial, latency_table=table))
    here = with_inputs(job)
    assert here.trial.latency_table is not None
    assert Path(here.trial.latency_table).read_text() == "{}"
    assert here.supernet_folder.name != job.supernet_folder.name


def test_a_supernet_goes_on_at_another_node(object_store, uri):
    folder = Home(Path("/of/the/driver")).supernet("other")

    def names():
        objects = object_store.objects(uri)
        return {k.rpartition("/")[2] for k in objects if k.startswith("supernets/other")}

    with contextlib.suppress(Killed), supernet_on_node(uri, folder) as (here, push):
        (here / "checkpoint.pt").write_text("1")
        push()
        object_store.wait_until(lambda: names() == {"checkpoint.pt"})
        raise Killed
    with supernet_on_node(uri, folder) as (here, _):
        assert (here / "checkpoint.pt").read_text() == "1"
        (here / "supernet.safetensors").touch()
        (here / "supernet.json").touch()
    assert names() == {"supernet.safetensors", "supernet.json"}
    with supernet_on_node(uri, folder) as (here, _):
        assert [path.name for path in here.iterdir()] == ["supernet.json"]


def test_folders_of_killed_processes_are_removed_those_of_others_stay(cache):
    with node_folder() as living:
        (cache / ".work" / "run-dead_123").mkdir()
        (cache / ".work" / "run-dead_123.lock").touch()
        with node_folder() as another:
            assert living.is_dir()
            assert another != living
        assert not (cache / ".work" / "run-dead_123").exists()
        lock = (cache / ".work" / f"{living.name}.lock").open()
        with lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert [path.name for path in (cache / ".work").iterdir()] == ["lock"]


def test_what_is_none_of_its_own_is_left_where_it_is(cache):
    foreign = {"lock": b"mine", "poetry.lock": b"mine", "poetry/a": b"mine", "run-1.lock": b"mine"}
    for name, content in foreign.items():
        (cache / ".work" / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / ".work" / name).write_bytes(content)
    with node_folder():
        pass
    assert files_in(cache / ".work") == foreign


def test_where_nodes_share_the_home_folder_the_job_stays_as_it_is(job, cache):
    job = dataclasses.replace(job, storage=None)
    seen = []
    on_node(job, print, lambda here, report: seen.append((here, report)))
    assert seen == [(job, print)]
    assert with_inputs(job) is job
    with supernet_on_node(None, job.supernet_folder) as (here, push):
        push()
        assert here == job.supernet_folder
    assert not cache.exists()
