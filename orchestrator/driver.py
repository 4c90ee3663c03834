"""The process that runs a sweep: its lock, its log, and how another process finds and ends it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from orchestrator.errors import UserError, printable
from orchestrator.home import Home

STOP_WAIT_S = 120
"""A driver that is told to end closes its runs first; for so many seconds it is waited for."""
INTERRUPTS = (KeyboardInterrupt, SystemExit)
"""What ends a driver that was told to end; Ray answers SIGTERM with the second."""
_interrupted = threading.Event()
_POLL_S = 0.2
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Driver:
    """A process that runs a sweep now: its machine's name and its number there."""

    host: str
    pid: int

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine."""
        return self.host == socket.gethostname()


@contextmanager
def only_driver(home: Home, sweep_id: str) -> Iterator[str]:
    """Hold the sweep's lock; the kernel drops it with the process, however that ends.

    Yields:
        A token of this folder, the same for every driver that holds its lock, and no other's.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    folder = home.sweep(sweep_id)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a+")
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be written ({error.strerror}); run the sweep as the user it "
            "was begun by, or set PAS_HOME to a folder of your own"
        ) from None
    with lock as file:
        if not _locked(file, fcntl.LOCK_EX, tries=_TRIES):
            raise UserError(
                f"sweep {sweep_id} is being run by another process; follow it with 'pas status' "
                "or 'pas logs', end it with 'pas stop'"
            )
        host, token = socket.gethostname(), _read(file).get("token") or uuid.uuid4().hex
        file.truncate(0)
        file.write(json.dumps({"host": host, "pid": os.getpid(), "token": token}))
        file.flush()
        yield f"{token} {host}:{folder}"  # a copied folder is another one


def driver_of(home: Home, sweep_id: str) -> Driver | None:
    """Return what runs a sweep of this home folder now; ``None`` if nothing does."""
    path = home.sweep(sweep_id) / "lock"
    try:
        with path.open() as file:
            if not _locked(file, fcntl.LOCK_SH):
                holder = _read(file)
                return Driver(holder["host"], holder["pid"]) if holder else None
    except FileNotFoundError:
        pass
    return None


def has_died(home: Home, sweep_id: str) -> bool:
    """Whether a sweep's last driver was on this machine and is gone."""
    with suppress(OSError), (home.sweep(sweep_id) / "lock").open() as file:
        was_here = _read(file).get("host") == socket.gethostname()
        return was_here and driver_of(home, sweep_id) is None
    return False


def _read(file: IO[str]) -> dict[str, Any]:
    """Return what a lock says; nothing if it has never been held, or is about to be."""
    file.seek(0)
    try:
        said: dict[str, Any] = json.loads(file.read())
    except json.JSONDecodeError:
        return {}
    return said


def _locked(file: IO[str], kind: int, tries: int = 1) -> bool:
    """Lock a file; more than one try where another process may only be looking."""
    for _ in range(tries):
        with suppress(BlockingIOError):
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        time.sleep(_POLL_S / 4)
    return False


def stop_driver(home: Home, sweep_id: str) -> Driver | None:
    """End a sweep of this home folder as Ctrl-C does, and wait until it has closed its runs.

    Returns:
        What ran it; ``None`` if nothing did.

    Raises:
        UserError: it runs on another machine, belongs to another user, or does not end.
    """
    driver = driver_of(home, sweep_id)
    if driver is None:
        return None
    process = f"process {driver.pid} on {driver.host}"
    if not driver.is_here:
        raise UserError(
            f"sweep {sweep_id} is run by {process}; run 'pas stop' there, or give --address "
            "where it was submitted as a job"
        )
    try:
        os.kill(driver.pid, signal.SIGTERM)
    except ProcessLookupError:  # it has just ended
        return driver
    except PermissionError:
        raise UserError(f"sweep {sweep_id} is run by {process}, of another user") from None
    deadline = time.monotonic() + STOP_WAIT_S
    while driver_of(home, sweep_id) == driver:
        if time.monotonic() > deadline:
            raise UserError(
                f"{process} has not ended within {STOP_WAIT_S} s; see 'pas logs {sweep_id}'"
            )
        time.sleep(_POLL_S)
    return driver


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end what is inside as Ctrl-C does."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    _interrupted.clear()
    arm_termination()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def arm_termination() -> None:
    """Have SIGTERM interrupt (once: a second one must not cut the closing of runs short).

    Ray puts a handler of its own in place whenever a session begins: then call this again.
    """

    def interrupt(_signum: int, _frame: object) -> None:
        _interrupted.set()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is to be ignored
        signal.signal(signal.SIGINT, interrupt)


def check_interrupted() -> None:
    """Raise an interruption once more that got lost: Python drops one that meets a destructor.

    Raises:
        KeyboardInterrupt: a signal has come.
    """
    if _interrupted.is_set():
        raise KeyboardInterrupt


def log_path(home: Home, sweep_id: str) -> Path:
    """File to which the drivers of a sweep write what they do."""
    return home.sweep(sweep_id) / "driver.log"


@contextmanager
def driver_log(home: Home, sweep_id: str) -> Iterator[Callable[[str], None]]:
    """Give what writes a line, with the time, to the sweep's log; how the driver ends is the last.

    A log that cannot be written stops no sweep.
    """

    def write(line: str) -> None:
        with suppress(OSError):
            file.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {printable(line)}\n")

    with log_path(home, sweep_id).open("a", buffering=1, encoding="utf-8") as file:
        write(f"driver {os.getpid()} on {socket.gethostname()} begins")
        try:
            yield write
        except BaseException as error:
            reason = "interrupted" if isinstance(error, INTERRUPTS) else str(error)
            write(f"driver ends: {reason or type(error).__name__}")
            raise
        write("driver ends: done")


def read_log(home: Home, sweep_id: str, *, follow: bool) -> Iterator[str]:
    """Yield the log of a sweep's drivers in pieces; ``follow``: until none runs any more.

    Raises:
        UserError: there is none.
    """
    try:
        file = log_path(home, sweep_id).open(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"sweep {sweep_id} has no log in home folder {home.root}") from None
    with file:
        running = True
        while running:
            running = follow and driver_of(home, sweep_id) is not None
            while piece := file.read(2**16):
                yield piece
            if running:
                time.sleep(_POLL_S)
