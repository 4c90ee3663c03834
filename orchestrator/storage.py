"""The object store that ``storage.uri`` names: opened, checked before compute is spent.

Below it lies what a home folder has below itself, under the same paths.
"""

from __future__ import annotations

import functools
import json
import os
import time
import uuid
from pathlib import Path

from deploy.object_store import ObjectStore
from deploy.store_errors import FILES
from orchestrator.config import SweepConfig
from orchestrator.errors import UserError
from orchestrator.home import TABLE_FILE, USAGE_FILE, Home, write_text
from pas_trainer import DataError

KEYS = Home(Path())
"""Paths below ``storage.uri``."""

CONNECTIONS = 16


def open_store(uri: str) -> ObjectStore:
    """Return the store at an address, opened once per process and endpoint.

    Raises:
        DataError: the surroundings are not what boto3 needs.
    """
    return _opened(uri, os.environ.get("AWS_ENDPOINT_URL"))


@functools.lru_cache(maxsize=4)
def _opened(uri: str, _endpoint: str | None) -> ObjectStore:
    return ObjectStore(uri, CONNECTIONS, FILES)


def prepare_storage(config: SweepConfig, home: Home, *, dry_run: bool) -> None:
    """Check the sweep's storage, and bring here what it holds of sweeps of this name.

    A dry run does not check whether the store can be written.

    Raises:
        UserError: the bucket, a permission or the credentials are missing, the store cannot be
            reached, or the sweep was started with another one.
    """
    if (uri := config.storage.uri) is not None:
        try:
            store = ObjectStore(uri, CONNECTIONS, FILES)
            _bring_records(store, config, home)
            if not dry_run:
                _check_writing(store)
        except DataError as error:
            raise UserError(str(error)) from None
    _check_unchanged(config, home)


def has_trials(config: SweepConfig, home: Home) -> bool:
    """Whether any trial of the sweep has left something, here or in the sweep's storage.

    Raises:
        UserError: the store cannot be reached.
    """
    if any((home.sweep(config.sweep_id) / "trials").glob("*")):
        return True
    if config.storage.uri is None:
        return False
    try:
        below = (KEYS.sweep(config.sweep_id) / "trials").as_posix()
        return bool(open_store(config.storage.uri).folders(f"{below}/"))
    except DataError as error:
        raise UserError(str(error)) from None


def _check_writing(store: ObjectStore) -> None:
    """Write and delete an object; check that conditions, which the lock needs, are heeded."""
    probe = f"probe-{uuid.uuid4().hex}"
    store.write(probe, b"")
    written = store.write_over(probe, b"", None)
    store.delete(probe)
    if written is not None:
        raise DataError(
            f"storage.uri is {store.uri}, whose store ignores conditions of writes "
            "(If-None-Match), by which drivers are kept off a sweep that another one runs; use a "
            "store, or a version of it, that knows them"
        )


def _bring_records(store: ObjectStore, config: SweepConfig, home: Home) -> None:
    """Bring ``sweep.json`` of the sweeps of a name, of this one what else is small."""
    for sweep_id in store.folders("sweeps/"):
        path = home.sweep(sweep_id) / "sweep.json"
        if path.exists() or sweep_id.rpartition("-")[0] != config.name:
            continue
        found = store.read((KEYS.sweep(sweep_id) / "sweep.json").as_posix())
        if found is None:
            continue
        document = json.loads(found.content)
        if document["tracking_uri"].startswith("sqlite:"):  # in the home folder of another machine
            document["tracking_uri"] = home.mlflow_uri
        write_text(path, json.dumps(document, indent=1))
        written = time.time() - found.age_s
        os.utime(path, (written, written))
    for name in (TABLE_FILE, USAGE_FILE):
        path = home.sweep(config.sweep_id) / name
        if not path.exists():
            found = store.read((KEYS.sweep(config.sweep_id) / name).as_posix())
            if found is not None:
                write_text(path, found.content.decode())


def _check_unchanged(config: SweepConfig, home: Home) -> None:
    path = home.sweep(config.sweep_id) / "sweep.json"
    if not path.exists():
        return
    before = json.loads(path.read_text())["config"].get("storage", {}).get("uri")
    if before != config.storage.uri:
        old, new = (uri or f"the home folder {home.root}" for uri in (before, config.storage.uri))
        raise UserError(
            f"storage.uri: sweep {config.sweep_id} keeps its files in {old}, not in {new}; set it "
            "back, or copy 'sweeps' and 'supernets' from there and set PAS_HOME to an empty folder"
        )
