"""One driver per sweep also where drivers share no home folder, but an object store."""

from __future__ import annotations

import math
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from deploy.store_lock import LockHeldError, StoreLock
from deploy.user_name import user_name
from orchestrator.errors import UserError
from orchestrator.storage import open_store
from orchestrator.stored_sweeps import KEYS
from pas_trainer import DataError


@contextmanager
def only_driver_of_store(
    sweep_id: str, storage: str | None, token: str
) -> Iterator[threading.Event]:
    """Hold the sweep's lock on the store; that of a dead driver expires.

    Args:
        sweep_id: which sweep.
        storage: address of the object store; ``None``: drivers share the home folder.
        token: from :func:`orchestrator.driver.only_driver`: who held the lock by it is dead.

    Yields:
        An event, set if another driver takes over since this one could not reach the store.

    Raises:
        UserError: another driver runs it, or the store refuses; one sentence.
    """
    taken_over = threading.Event()
    if storage is None:
        yield taken_over
        return
    path = (KEYS.sweep(sweep_id) / "lock").as_posix()
    with ExitStack() as stack:
        try:
            lock = StoreLock(open_store(storage), path, _owner(), token, taken_over.set)
            stack.enter_context(lock)
        except DataError as error:
            raise UserError(str(error)) from None
        except LockHeldError as held:
            raise UserError(
                f"sweep {sweep_id} is being run by {held.owner}; follow it with 'pas status', or, "
                f"if that process is dead, run the same command again in {math.ceil(held.wait_s)} s"
            ) from None
        yield taken_over


def _owner() -> str:
    return f"{user_name()} on {socket.gethostname()} (process {os.getpid()})"
