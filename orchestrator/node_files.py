"""Files of a trial on the node that runs it, where nodes share nothing but an object store.

A worker works in a folder of its own node, below the cache folder. It begins with what the store
has of the trial; after each report the store gets what has changed, in order and in the
background, and at the end the worker waits until the store has everything. Where nodes share the
home folder, all of this is left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from deploy import ARCHITECTURE_FILE
from deploy.stored_files import Outbox, download, patiently, share
from orchestrator.cells import Report, Train, TrialJob
from orchestrator.home import (
    CHECKPOINT_FILE,
    PREVIEW_FILES,
    RESULT_FILE,
    STATE_FILES,
    TABLE_FILE,
    Home,
)
from orchestrator.staged_data import cache_folder, cache_limit
from orchestrator.storage import open_store
from orchestrator.stored_sweeps import KEYS
from orchestrator.sweep_files import WEIGHTS
from pas_trainer import SUPERNET_RESULT, SUPERNET_WEIGHTS, is_first

ERROR_FILE = "error.txt"
SUPERNET_FILES = (SUPERNET_WEIGHTS, SUPERNET_RESULT)
_TRIAL_FILES = (
    *WEIGHTS,
    *PREVIEW_FILES,
    *(ERROR_FILE, ARCHITECTURE_FILE, RESULT_FILE),
)
START_S = 900.0
"""A store that a node cannot reach for so long when it begins is not waited for any longer."""
_reached = functools.partial(patiently, limit_s=START_S)
_OWN_LOCK = re.compile(r"run-[a-z0-9_]{8}\.lock")  # of :func:`node_folder`


def on_node(job: TrialJob, report: Report, run: Train) -> None:
    """Run a job with its files on this node; of several workers the first one keeps them.

    Args:
        job: with the folders of the driver.
        report: see :func:`orchestrator.worker.train_job`.
        run: called with the job, its folders those of this node, and what it shall report to.

    Raises:
        DataError: the store refuses, or cannot be reached at the start; one sentence. If it goes
            away later, this waits.
        Exception: what ``run`` raises.
    """
    if job.storage is None:
        run(job, report)
        return
    with node_folder() as root, contextlib.closing(Outbox(open_store(job.storage))) as outbox:
        local = _moved(job, Home(root))
        if not is_first():
            run(local, report)
            return
        pull_trial(local, CHECKPOINT_FILE)
        folders = [
            Pushed(outbox, step.folder, trial_key(step), _TRIAL_FILES, STATE_FILES)
            for step in local.steps
        ]

        def push() -> None:
            for folder in folders:
                folder.push()

        def push_and_report(progress: dict[str, Any]) -> None:
            push()
            report(progress)

        try:
            run(local, push_and_report)
        except Exception:
            push()
            outbox.flush()  # what is known of the steps before
            raise
        push()
        outbox.flush()


def with_inputs(job: TrialJob) -> TrialJob:
    """Return the job with supernet and latency table on this node, shared by its trials.

    Raises:
        DataError: they cannot be had.
    """
    if job.storage is None:
        return job
    store, cache, limit = open_store(job.storage), cache_folder(), cache_limit()
    below = f"{KEYS.supernet(job.supernet_folder.name).as_posix()}/"
    supernet = _reached(lambda: share(store, below, SUPERNET_FILES, cache, limit))
    job = dataclasses.replace(job, supernet_folder=supernet)
    if job.trial.latency_table is None:
        return job
    sweep = f"{KEYS.sweep(job.sweep_id).as_posix()}/"
    table = _reached(lambda: share(store, sweep, [TABLE_FILE], cache, limit)) / TABLE_FILE
    return job.with_trial(dataclasses.replace(job.trial, latency_table=str(table)))


def pull_trial(job: TrialJob, *names: str) -> None:
    """Bring the results that the store has of a job, and further files, into its folders.

    Raises:
        DataError: the store refuses.
    """
    if job.storage is None:
        return
    store = open_store(job.storage)
    for step in job.steps:
        key = trial_key(step)
        for item in _reached(lambda key=key: store.objects(f"{key}/")):  # type: ignore[misc]
            target = step.folder / item.path[len(key) + 1 :]
            if target.name in (RESULT_FILE, *names) and not target.exists():
                _reached(lambda i=item, t=target: download(store, i, t))  # type: ignore[misc]


@contextlib.contextmanager
def supernet_on_node(storage: str | None, folder: Path) -> Iterator[tuple[Path, Push]]:
    """Give a folder of this node to train a supernet in, and what brings it to the store.

    Args:
        storage: address of the object store; ``None``: the folder is seen by all.
        folder: of the supernet, in the home folder of the driver.

    Raises:
        DataError: as :func:`on_node`.
    """
    if storage is None:
        yield folder, lambda: None
        return
    store, key = open_store(storage), KEYS.supernet(folder.name).as_posix()
    with node_folder() as root, contextlib.closing(Outbox(store)) as outbox:
        for item in _reached(lambda: store.objects(f"{key}/")):
            name = item.path[len(key) + 1 :]
            if name != SUPERNET_FILES[0]:
                _reached(lambda i=item, n=name: download(store, i, root / n))  # type: ignore[misc]
        pushed = Pushed(outbox, root, key, SUPERNET_FILES, [CHECKPOINT_FILE])
        yield root, pushed.push
        pushed.push()
        outbox.flush()


Push = Callable[[], None]


class Pushed:
    """One folder that the store gets as it changes.

    Args:
        outbox: to the store.
        folder: on this node.
        key: of the folder, in the store.
        names: files that are written at the end, in this order; the last one says that all are.
        states: files that are replaced now and then until that, and are superfluous afterwards.
    """

    def __init__(
        self, outbox: Outbox, folder: Path, key: str, names: Sequence[str], states: Sequence[str]
    ) -> None:
        self._outbox, self._folder, self._key = outbox, folder, key
        self._names, self._states = names, states
        self._seen = {name: self._version(name) for name in states}
        self._done = (folder / names[-1]).exists()

    def push(self) -> None:
        """Hand over what has changed; returns at once.

        Raises:
            DataError: the store has refused something for good.
        """
        if self._done:
            return
        if (self._folder / self._names[-1]).exists():
            for name in self._names:
                if (self._folder / name).exists():
                    self._outbox.write(f"{self._key}/{name}", self._folder / name)
            for name in self._states:
                self._outbox.delete(f"{self._key}/{name}")
            self._done = True
            return
        for name in self._states:
            version = self._version(name)
            if version not in {None, self._seen[name]}:
                self._outbox.write(f"{self._key}/{name}", self._folder / name)
                self._seen[name] = version

    def _version(self, name: str) -> tuple[int, int] | None:
        """Tell a file from the one that took its place."""
        try:
            found = (self._folder / name).stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns


@contextlib.contextmanager
def node_folder() -> Iterator[Path]:
    """Give a folder of this node, removed afterwards; so are those that killed processes had here.

    Raises:
        OSError: the cache folder cannot be used.
    """
    work = cache_folder() / ".work"
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("a") as only:  # held while folders come and go
        fcntl.flock(only, fcntl.LOCK_EX)
        for path in filter(lambda path: _OWN_LOCK.fullmatch(path.name), work.iterdir()):
            with path.open("a") as lock, contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=work))
        lock_path = folder.with_suffix(".lock")
        held = lock_path.open("w")
        fcntl.flock(held, fcntl.LOCK_EX)
    with held:
        try:
            yield folder
        finally:
            _remove(lock_path)


def _remove(lock: Path) -> None:
    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
    lock.unlink(missing_ok=True)


def trial_key(job: TrialJob) -> str:
    """Return where the store has the folder of a trial."""
    return KEYS.trial(job.sweep_id, job.trial_id).as_posix()


def _moved(job: TrialJob, home: Home) -> TrialJob:
    """Put a job's folders below another home."""
    looser = tuple(_moved(step, home) for step in job.looser)
    folder = home.trial(job.sweep_id, job.trial_id)
    return dataclasses.replace(job, folder=folder, looser=looser)
