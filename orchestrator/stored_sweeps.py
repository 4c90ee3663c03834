"""What an object store knows of sweeps and a home folder does not: drivers elsewhere went on."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from deploy.object_store import ObjectStore
from orchestrator.config import SweepConfig
from orchestrator.errors import UserError
from orchestrator.growth import grown
from orchestrator.home import (
    TABLE_FILE,
    USAGE_FILE,
    Home,
    parse_sweep_record,
    read_sweep,
    write_text,
)
from orchestrator.loading import parse_recorded
from orchestrator.slots import kept_usage, parse_usage

KEYS = Home(Path())
"""Paths below ``storage.uri``."""


def bring_records(store: ObjectStore, config: SweepConfig, home: Home) -> None:
    """Bring ``sweep.json`` of the sweeps of a name, of this one its table of latencies.

    A sweep that is here already gets the cells that it was given elsewhere.

    Raises:
        DataError: the store cannot be read.
        UserError: a sweep is of another version.
    """
    for sweep_id in store.folders("sweeps/"):
        if sweep_id.rpartition("-")[0] == config.name:
            _bring_settings(store, sweep_id, home)
    path = home.sweep(config.sweep_id) / TABLE_FILE
    if not path.exists():
        found = store.read((KEYS.sweep(config.sweep_id) / TABLE_FILE).as_posix())
        if found is not None:
            write_text(path, found.content.decode())


def follow(store: ObjectStore, config: SweepConfig, home: Home) -> None:
    """Take over from the driver that had the sweep's lock before; call once it is ours.

    Raises:
        DataError: the store cannot be read.
        UserError: that driver has added cells since ``config`` was read.
    """
    folder = KEYS.sweep(config.sweep_id)
    key = (folder / "sweep.json").as_posix()
    found = store.read(key)
    if found is not None:
        where = f"object {store.uri}/{key}"
        stored = parse_recorded(parse_sweep_record(found.content, where)["config"], where)
        if not _has_cells_of(config, stored):
            raise UserError(
                f"sweep {config.sweep_id} has just been extended by a driver elsewhere; run the "
                "same command again"
            )
    found = store.read((folder / USAGE_FILE).as_posix())
    path = home.sweep(config.sweep_id) / USAGE_FILE
    if found is not None:
        there = parse_usage(found.content, f"object {store.uri}/{folder / USAGE_FILE}")
        if there.cpu_seconds > kept_usage(path).cpu_seconds:  # it only grows
            write_text(path, found.content.decode())


def _bring_settings(store: ObjectStore, sweep_id: str, home: Home) -> None:
    path = home.sweep(sweep_id) / "sweep.json"
    key = (KEYS.sweep(sweep_id) / "sweep.json").as_posix()
    found = store.read(key)
    if found is None:
        return
    where = f"object {store.uri}/{key}"
    document = parse_sweep_record(found.content, where)
    if path.exists():
        here = read_sweep(path)
        ours = parse_recorded(here["config"], str(path))
        stored = parse_recorded(document["config"], where)
        if _has_cells_of(ours, stored):
            return
        both = grown(stored, ours.budget.limits, ours.strengths, like=ours)
        document = {**here, "config": both.model_dump(mode="json")}
    elif document["tracking_uri"].startswith("sqlite:"):  # in the home folder of another machine
        document["tracking_uri"] = home.mlflow_uri
    write_text(path, json.dumps(document, indent=1))
    written = time.time() - found.age_s
    os.utime(path, (written, written))


def _has_cells_of(config: SweepConfig, other: SweepConfig) -> bool:
    """Whether a sweep is due all trials that it is due in other settings."""
    return (
        set(other.budget.numbers) <= set(config.budget.numbers)
        and set(other.strengths) <= set(config.strengths)
        and other.trials_per_cell <= config.trials_per_cell
    )
