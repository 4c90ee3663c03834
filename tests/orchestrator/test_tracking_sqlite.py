"""What is read straight from the database is what MLflow itself reads from it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from tracked_sweeps import load_records

from orchestrator.tracking_reader import list_sweeps
from orchestrator.tracking_server import open_client
from orchestrator.tracking_sqlite import read_runs


@pytest.fixture
def database(finished, tmp_path) -> Path:
    """A copy of a finished sweep's store, with what a sweep on digits does not give."""
    copy = tmp_path / "mlflow.db"
    with sqlite3.connect(finished.home / "mlflow.db") as store, sqlite3.connect(copy) as to:
        store.backup(to)
    client = open_client(f"sqlite:///{copy}")
    runs = [run for run in every_run(client) if run.data.tags["pas.kind"] == "trial"]
    client.log_metric(runs[0].info.run_id, "accuracy", float("nan"), step=99)
    client.log_metric(runs[1].info.run_id, "accuracy", float("inf"), step=99)
    client.set_tag(runs[1].info.run_id, "pas.error", "it's a \"quote\"\nand 'more'")
    client.delete_run(runs[2].info.run_id)
    return copy


def every_run(client):
    experiments = [e.experiment_id for e in client.search_experiments()]
    return client.search_runs(experiments, max_results=1000)


def as_read(run):
    info, data = run.info, run.data
    whole = (info.run_id, info.experiment_id, info.status, info.start_time, info.end_time)
    return repr((whole, sorted(data.tags.items()), sorted(data.params.items()))), {
        name: repr(value) for name, value in data.metrics.items()
    }


@pytest.mark.slow
def test_runs_are_those_that_mlflow_finds(database):
    client = open_client(f"sqlite:///{database}")
    runs = every_run(client)
    (sweep,) = [run for run in runs if run.data.tags["pas.kind"] == "sweep"]
    trials = [run for run in runs if run is not sweep]
    assert len(trials) == 3  # one is in the trash
    assert any("nan" in as_read(run)[1].values() for run in trials)
    for tag, value, expected in (
        ("pas.kind", "sweep", [sweep]),
        ("mlflow.parentRunId", sweep.info.run_id, trials),
        ("pas.kind", "' or '1", []),
    ):
        read = read_runs(database, tag, value)
        assert read is not None
        assert list(map(as_read, read)) == list(map(as_read, expected))


@pytest.mark.slow
def test_a_database_that_is_not_as_expected_is_left_to_mlflow(database, monkeypatch):
    uri = f"sqlite:///{database}"
    expected = list_sweeps(uri), load_records(uri, "tiny")
    monkeypatch.setattr("orchestrator.tracking_sqlite._METRICS", "select a, b, c from gone where ?")
    assert read_runs(database, "pas.kind", "sweep") is None
    assert repr((list_sweeps(uri), load_records(uri, "tiny"))) == repr(expected)


def test_reading_creates_and_changes_nothing(tmp_path):
    assert read_runs(tmp_path / "none.db", "pas.kind", "sweep") is None
    no_database = tmp_path / "text.db"
    no_database.write_text("no database")
    assert read_runs(no_database, "pas.kind", "sweep") is None
    assert [path.name for path in tmp_path.iterdir()] == ["text.db"]
