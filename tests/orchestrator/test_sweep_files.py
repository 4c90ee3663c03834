"""What the driver sees of a sweep's files, in the home folder and on an object store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cells import Cell, TrialJob, trial_config
from orchestrator.errors import UserError
from orchestrator.home import Home
from orchestrator.loading import load_sweep
from orchestrator.records import TrialRecord
from orchestrator.retention import Retention
from orchestrator.sweep_files import HomeFiles, StoreFiles, files_of
from orchestrator.worker import failed, left_records, read_result, write_result

DIGITS = Path(__file__).parents[2] / "examples" / "digits.yaml"
WEIGHTS = ("weights.safetensors", "training_weights.safetensors")
PACKAGE = ("architecture.json", *WEIGHTS)


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def uri(object_store):
    return object_store.upload({}, "p")


@pytest.fixture
def files(home, uri):
    with files_of(home, "s-1", uri) as files:
        assert isinstance(files, StoreFiles)
        yield files


def job(home: Home, number: int = 0) -> TrialJob:
    cell = Cell(0.5, 10.0)
    return TrialJob(
        trial_id=cell.trial_id(number),
        sweep_id="s-1",
        cell=cell,
        number=number,
        hyperparameters={"learning_rate": 0.1},
        config=trial_config(load_sweep(DIGITS), cell, number, {}),
        supernet_folder=home.supernet("net"),
        folder=home.trial("s-1", cell.trial_id(number)),
        num_threads=1,
    )


def record(number: int, status="FINISHED", **more) -> TrialRecord:
    return TrialRecord(
        trial_id=f"b0.5-s10-{number}",
        sweep_id="s-1",
        status=status,
        budget=0.5,
        strength=10.0,
        number=number,
        hyperparameters={"learning_rate": 0.1 * (number + 1)},
        **more,
    )


def keep(object_store, uri: str, kept: TrialRecord, *names: str) -> None:
    """Let a worker have left a result, and further files."""
    below = f"sweeps/s-1/trials/{kept.trial_id}"
    for name in names:
        object_store.put(uri, f"{below}/{name}", name.encode())
    name = "trial.json" if kept.status == "RUNNING" else "result.json"
    object_store.put(uri, f"{below}/{name}", json.dumps(kept.to_json()).encode())


def names(object_store, uri: str, number: int) -> set[str]:
    below = f"sweeps/s-1/trials/b0.5-s10-{number}/"
    return {k[len(below) :] for k in object_store.objects(uri) if k.startswith(below)}


def test_a_driver_with_an_empty_home_finds_what_is_small(object_store, uri, home, files):
    keep(object_store, uri, record(0), *PACKAGE)
    keep(object_store, uri, record(1, "RUNNING"), "checkpoint.pt")
    object_store.put(uri, "supernets/net/supernet.json", b"{}")
    object_store.calm()
    files.begin()
    files.pull_supernet("net")
    assert object_store.num_listings == 1
    assert read_result(job(home)) == record(0)
    assert read_result(job(home, 1)) is None
    assert list(left_records(home.sweep("s-1"), {"b0.5-s10-0"})) == [record(1, "RUNNING")]
    brought = {p.relative_to(home.root).as_posix() for p in home.root.rglob("*") if p.is_file()}
    assert brought == {
        "sweeps/s-1/trials/b0.5-s10-0/architecture.json",
        "sweeps/s-1/trials/b0.5-s10-0/result.json",
        "sweeps/s-1/trials/b0.5-s10-1/trial.json",
        "supernets/net/supernet.json",
    }


def test_each_result_is_brought_once(object_store, uri, home, files):
    steps = (job(home), job(home, 1))
    keep(object_store, uri, record(0), *PACKAGE)
    files.pull(steps)
    object_store.calm()
    files.pull(steps[:1])
    assert object_store.fetched == []
    assert read_result(job(home)) == record(0)
    assert read_result(job(home, 1)) is None


def test_what_the_driver_writes_reaches_the_store(object_store, uri, home, files):
    (home.sweep("s-1")).mkdir(parents=True)
    (home.sweep("s-1") / "latency.json").write_text("{}")
    write_result(job(home), failed(job(home), "lost"))  # by a driver that was killed then
    files.begin()
    assert names(object_store, uri, 0) == {"result.json"}
    assert object_store.objects(uri)["sweeps/s-1/latency.json"] == b"{}"
    keep(object_store, uri, record(1, "RUNNING"), "checkpoint.pt")
    write_result(job(home, 1), failed(job(home, 1), "lost"))
    files.push([job(home, 1)])
    files.flush()
    assert names(object_store, uri, 1) == {"result.json"}


@pytest.mark.parametrize("name", ["result.json", "trial.json"])
@pytest.mark.parametrize("content", [b'{"trial_id"', b"[]", b'{"trial_id": "b0.5-s10-0"}'])
def test_damaged_records_of_trials_are_named(object_store, uri, home, files, name, content):
    below = f"sweeps/s-1/trials/b0.5-s10-0/{name}"
    object_store.put(uri, below, content)
    with pytest.raises(UserError) as error:
        files.begin()
    told = (
        "is damaged: it does not hold the record of a trial; restore it, or remove it and run the "
        "sweep's file again, which runs the trial anew"
    )
    assert str(error.value) == f"object {uri}/{below} {told}"
    assert not (home.root / below).exists()
    (home.root / below).parent.mkdir(parents=True)
    (home.root / below).write_bytes(content)
    with pytest.raises(UserError) as error:
        list(left_records(home.sweep("s-1"), ()))
    assert str(error.value) == f"{home.root / below} {told}"
    if name == "result.json":
        with pytest.raises(UserError, match="is damaged: it does not hold the record of a trial"):
            read_result(job(home))


@pytest.fixture(params=["home", "store"])
def kept(request, object_store, uri, home):
    """Two kinds of storage: files, how to leave something there, and what is there."""

    def leave(record: TrialRecord, *names: str) -> None:
        if request.param == "store":
            keep(object_store, uri, record, *names)
            return
        folder = home.trial("s-1", record.trial_id)
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()
        if record.status != "RUNNING":
            (folder / "result.json").write_text("{}")

    def there(number: int) -> set[str]:
        if request.param == "store":
            return names(object_store, uri, number)
        return {path.name for path in home.trial("s-1", f"b0.5-s10-{number}").iterdir()}

    with files_of(home, "s-1", uri if request.param == "store" else None) as files:
        yield files, leave, there


SMALL = {"architecture.json", "result.json"}
WHOLE = {*SMALL, *WEIGHTS}


def finished(number: int, macs: int, accuracy: float, **more) -> TrialRecord:
    return record(number, macs=macs, score=accuracy, **more)


def test_networks_pushed_off_the_front_lose_their_weights(kept):
    files, leave, there = kept
    retention = Retention(files, "front", "macs")
    retention.tidy()

    def end(trial: TrialRecord) -> list[set[str]]:
        leave(trial, *PACKAGE)
        retention.ended(trial)
        files.flush()
        return [there(number) for number in range(trial.number + 1)]

    assert end(finished(0, 10, 0.5)) == [WHOLE]
    assert end(finished(1, 11, 0.5)) == [WHOLE, SMALL]
    assert end(finished(2, 20, 0.9)) == [WHOLE, SMALL, WHOLE]
    assert end(finished(3, 10, 0.6)) == [SMALL, SMALL, WHOLE, WHOLE]
    assert end(finished(4, 9, 0.1, control="uniform"))[2:] == [WHOLE, WHOLE, WHOLE]
    assert end(finished(5, 9, 0.9)) == [SMALL, SMALL, SMALL, SMALL, WHOLE, WHOLE]


def test_what_killed_processes_left_is_tidied(kept, object_store):
    files, leave, there = kept
    ended = [finished(0, 1, 0.9), finished(1, 1, 0.8), record(2, "FAILED")]
    for trial in ended:
        leave(trial, *PACKAGE, "checkpoint.pt", "trial.json")
    leave(record(3, "RUNNING"), "checkpoint.pt", *WEIGHTS)
    retention = Retention(files, "front", "macs")
    object_store.calm()
    for trial in ended:
        retention.ended(trial)
    assert object_store.written == []  # what is not there need not be deleted
    retention.tidy()
    files.flush()
    assert [there(n) for n in range(3)] == [WHOLE, SMALL, SMALL]
    assert there(3) >= {"checkpoint.pt", *WEIGHTS}  # it goes on


def test_weights_of_trials_that_this_driver_knows_nothing_of_stay(kept):
    files, leave, there = kept
    for number in (0, 1):
        leave(finished(number, 1, 0.5), *PACKAGE)
    retention = Retention(files, "front", "macs")
    retention.ended(finished(0, 1, 0.5))
    retention.tidy()
    files.flush()
    assert [there(0), there(1)] == [WHOLE, WHOLE]


def test_controls_that_are_asked_for_no_more_keep_their_weights(home):
    folder = home.trial("s-1", "control-uniform-b0.5")
    folder.mkdir(parents=True)
    for name in (*PACKAGE, "result.json"):
        (folder / name).touch()
    with HomeFiles(home, "s-1") as files:
        Retention(files, "front", "macs").tidy()
    assert {path.name for path in folder.iterdir()} == WHOLE


def test_all_weights_are_kept_if_so_configured(kept):
    files, leave, there = kept
    retention = Retention(files, "all", "macs")
    for trial in (finished(0, 1, 0.9), finished(1, 1, 0.8)):
        leave(trial, *PACKAGE, "checkpoint.pt")
        retention.ended(trial)
    retention.tidy()
    files.flush()
    assert [there(0), there(1)] == [WHOLE, WHOLE]


def test_drafts_of_killed_workers_and_of_tune_go(home):
    folder = home.trial("s-1", "b0.5-s10-0")
    folder.mkdir(parents=True)
    for name in ("result.json", ".weights.safetensors.1f.tmp", ".checkpoint.pt.tmp"):
        (folder / name).touch()
    (home.sweep("s-1") / "ray" / "tune").mkdir(parents=True)
    with HomeFiles(home, "s-1") as files:
        files.begin()
        files.tidy(lambda _: True)
    assert [path.name for path in folder.iterdir()] == ["result.json"]
    assert [path.name for path in home.sweep("s-1").iterdir()] == ["trials"]


def test_a_package_is_fetched_for_a_while(object_store, uri, home, files):
    keep(object_store, uri, record(0), *PACKAGE)
    with files.package("b0.5-s10-0") as folder:
        assert {path.name for path in folder.iterdir()} == set(PACKAGE)
    assert not folder.exists()
    assert not list(home.root.rglob("*.safetensors"))
