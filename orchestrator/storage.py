"""The object store that ``storage.uri`` names: opened, checked before compute is spent.

Below it lies what a home folder has below itself, under the same paths.
"""

from __future__ import annotations

import functools
import os
import uuid

from deploy.object_store import ObjectStore
from deploy.store_errors import FILES
from orchestrator.config import SweepConfig
from orchestrator.errors import UserError
from orchestrator.home import Home, read_sweep
from orchestrator.stored_sweeps import KEYS, bring_records, follow
from pas_trainer import DataError

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
            bring_records(store, config, home)
            if not dry_run:
                _check_writing(store)
        except DataError as error:
            raise UserError(str(error)) from None
    _check_unchanged(config, home)


def follow_storage(config: SweepConfig, home: Home) -> None:
    """Take over from the driver that had the sweep before; call once its lock is ours.

    Raises:
        UserError: the store cannot be read, or that driver has added cells to the sweep.
    """
    if config.storage.uri is not None:
        try:
            follow(open_store(config.storage.uri), config, home)
        except DataError as error:
            raise UserError(str(error)) from None


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
    unlike = {"If-None-Match": None, "If-Match": f'"{"0" * 32}"'}
    ignored = [name for name, tag in unlike.items() if store.write_over(probe, b"", tag)]
    store.delete(probe)
    if ignored:
        raise DataError(
            f"storage.uri is {store.uri}, whose store ignores conditions of writes "
            f"({', '.join(ignored)}), by which drivers are kept off a sweep that another one "
            "runs; use a store, or a version of it, that knows them"
        )


def _check_unchanged(config: SweepConfig, home: Home) -> None:
    path = home.sweep(config.sweep_id) / "sweep.json"
    if not path.exists():
        return
    before = read_sweep(path)["config"].get("storage", {}).get("uri")
    if before != config.storage.uri:
        old, new = (uri or f"the home folder {home.root}" for uri in (before, config.storage.uri))
        raise UserError(
            f"storage.uri: sweep {config.sweep_id} keeps its files in {old}, not in {new}; set it "
            "back, or copy 'sweeps' and 'supernets' from there and set PAS_HOME to an empty folder"
        )
