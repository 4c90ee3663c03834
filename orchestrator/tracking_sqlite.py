"""Runs read straight from a local MLflow database.

MLflow's own search makes an object of every tag and metric, which takes many seconds of ten
thousand trials. Three plain queries give the same in a fraction of one. The database is opened for
reading only, and read as it was at one moment; all that is written goes through MLflow.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_RUNS = """
    select run_uuid, runs.experiment_id, status, start_time, end_time
    from tags join runs using (run_uuid) join experiments using (experiment_id)
    where key = ? and value = ? and runs.lifecycle_stage = 'active'
    and experiments.lifecycle_stage = 'active' order by start_time desc, run_uuid
"""
_TAGS = """
    select of_run.run_uuid, of_run.key, of_run.value
    from tags join tags of_run using (run_uuid) where tags.key = ? and tags.value = ?
"""
_PARAMS = """
    select of_run.run_uuid, of_run.key, of_run.value
    from tags join params of_run using (run_uuid) where tags.key = ? and tags.value = ?
"""
_METRICS = """
    select of_run.run_uuid, of_run.key, case when is_nan then null else of_run.value end
    from tags join latest_metrics of_run using (run_uuid) where tags.key = ? and tags.value = ?
"""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """As ``mlflow.entities.RunInfo``, what of it is read here."""

    run_id: str
    experiment_id: str
    status: str
    start_time: int
    end_time: int | None


@dataclass(frozen=True, slots=True)
class RunData:
    """As ``mlflow.entities.RunData``."""

    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredRun:
    """As ``mlflow.entities.Run``."""

    info: RunInfo
    data: RunData


def read_runs(database: Path, tag: str, value: str) -> list[StoredRun] | None:
    """Return the runs that have a tag with this value, those in the trash left out.

    Args:
        database: of MLflow.
        tag: name of the tag.
        value: what it must be.

    Returns:
        The latest started first, as MLflow's search has them; ``None`` if the database cannot
        be read like this (another version's, locked, no file): then MLflow is to be asked.
    """
    try:
        with _reading(database) as store:
            return list(_runs(store, (tag, value)))
    except sqlite3.Error:
        return None


@contextlib.contextmanager
def _reading(database: Path) -> Iterator[sqlite3.Connection]:
    """Open a database for reading; everything inside sees the same state of it."""
    store = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, isolation_level=None)
    with contextlib.closing(store):
        store.execute("begin")
        yield store


def _runs(store: sqlite3.Connection, tagged: tuple[str, str]) -> Iterator[StoredRun]:
    data: defaultdict[str, RunData] = defaultdict(RunData)
    for run_id, key, text in store.execute(_TAGS, tagged):
        data[run_id].tags[key] = text
    for run_id, key, text in store.execute(_PARAMS, tagged):
        data[run_id].params[key] = text
    for run_id, key, number in store.execute(_METRICS, tagged):
        data[run_id].metrics[key] = math.nan if number is None else number
    for run_id, experiment_id, *info in store.execute(_RUNS, tagged):
        yield StoredRun(RunInfo(run_id, str(experiment_id), *info), data[run_id])
