"""One driver per sweep: a lock in its folder, and one on the object store where there is one."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import math
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator

from deploy.store_lock import LockHeldError, StoreLock
from orchestrator.errors import UserError
from orchestrator.home import Home
from orchestrator.storage import KEYS, open_store
from pas_trainer import DataError


@contextlib.contextmanager
def only_driver(home: Home, sweep_id: str, storage: str | None) -> Iterator[threading.Event]:
    """Keep other drivers off a sweep.

    The kernel drops the lock of the home folder with the process, however that ends; the one of
    the store expires. A dead driver of this home folder is known to be dead by the former.

    Args:
        home: of the driver.
        sweep_id: which sweep.
        storage: address of the object store that drivers share; ``None``: they share the home.

    Yields:
        An event, set if another driver takes over since this one could not reach the store.

    Raises:
        UserError: another driver runs it, or the store refuses; one sentence.
    """
    folder = home.sweep(sweep_id)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"sweep {sweep_id} is being run by another process; follow it with 'pas status'"
            ) from None
        taken_over = threading.Event()
        if storage is None:
            yield taken_over
            return
        file.seek(0)
        dead, token = file.read(), uuid.uuid4().hex
        with _held_in_store(sweep_id, storage, token, dead, taken_over.set):
            file.truncate(0)
            file.write(token)
            file.flush()
            yield taken_over


@contextlib.contextmanager
def _held_in_store(
    sweep_id: str, storage: str, token: str, dead: str, lost: Callable[[], None]
) -> Iterator[None]:
    path = (KEYS.sweep(sweep_id) / "lock").as_posix()
    with contextlib.ExitStack() as stack:
        try:
            lock = StoreLock(open_store(storage), path, _owner(), token, dead, lost)
            stack.enter_context(lock)
        except DataError as error:
            raise UserError(str(error)) from None
        except LockHeldError as held:
            raise UserError(
                f"sweep {sweep_id} is being run by {held.owner}; follow it with 'pas status', or, "
                f"if that process is dead, run the same command again in {math.ceil(held.wait_s)} s"
            ) from None
        yield


def _owner() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        user = str(os.getuid())
    return f"{user} on {socket.gethostname()} (process {os.getpid()})"
