"""The files of a sweep, as its driver sees them: in the home folder, or on an object store.

In the home folder the driver reads what workers write. From an object store it brings what is
small: results and architectures, all at the start and then those of each trial that ends. What it
writes itself goes to the store in the background.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from deploy import ARCHITECTURE_FILE, TRAINING_WEIGHTS_FILE, WEIGHTS_FILE
from deploy.store_errors import StoreAwayError
from deploy.stored_files import Outbox, download, patiently
from orchestrator.cells import TrialJob
from orchestrator.home import (
    RESULT_FILE,
    STATE_FILES,
    TABLE_FILE,
    TRIAL_FILE,
    Home,
    write_bytes,
)
from orchestrator.records import parse_trial
from orchestrator.storage import CONNECTIONS, open_store
from orchestrator.stored_sweeps import KEYS
from pas_trainer import SUPERNET_RESULT, DataError

WEIGHTS = (WEIGHTS_FILE, TRAINING_WEIGHTS_FILE)
_SOON_S = 5.0
_RESULTS = (ARCHITECTURE_FILE, RESULT_FILE)


class HomeFiles:
    """In the home folder, which every node sees. Use as a context manager.

    Args:
        home: where it is.
        sweep_id: which sweep.
        previews: names of the pictures that its trials leave, if they leave any.
    """

    def __init__(self, home: Home, sweep_id: str, previews: Sequence[str] = ()) -> None:
        self._home, self._sweep_id, self._previews = home, sweep_id, tuple(previews)
        self._trials = home.sweep(sweep_id) / "trials"

    def __enter__(self) -> HomeFiles:
        """Begin; nothing is done yet."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End; after an error nothing is waited for."""

    def begin(self) -> None:
        """Take over from an earlier driver: what it has not seen, and what it left behind."""
        shutil.rmtree(self._home.sweep(self._sweep_id) / "ray", ignore_errors=True)

    def pull_supernet(self, key: str) -> None:
        """Bring the supernet's measures here, if it has been trained."""

    def pull(self, steps: Iterable[TrialJob], *, wait: bool = True) -> None:
        """Bring the results of steps here, as far as there are any.

        Args:
            steps: of jobs.
            wait: until a store that is away has come back.
        """

    def push(self, steps: Iterable[TrialJob]) -> None:
        """Hand over the results of steps that were written here."""

    def keep(self, name: str) -> None:
        """Hand over a file of the sweep's folder, as it is now."""

    def flush(self) -> None:
        """Wait until all that was handed over is kept."""

    def drop_weights(self, trial_id: str) -> None:
        """Delete the weights of a trial's network."""
        for name in (*WEIGHTS, *self._previews):
            (self._trials / trial_id / name).unlink(missing_ok=True)

    def tidy(self, keeps_weights: Callable[[str], bool]) -> None:
        """Delete what trials that have ended leave behind, but for the weights of some."""
        for result in self._trials.glob(f"*/{RESULT_FILE}"):
            folder = result.parent
            for path in [folder / name for name in STATE_FILES] + list(folder.glob("*.tmp")):
                path.unlink(missing_ok=True)
            if not keeps_weights(folder.name):
                self.drop_weights(folder.name)

    @contextlib.contextmanager
    def package(self, trial_id: str) -> Iterator[Path]:
        """Give a folder with the package of a trial.

        Raises:
            DataError: the store cannot be read.
        """
        yield self._trials / trial_id


class StoreFiles(HomeFiles):
    """On an object store.

    Args:
        home: of the driver.
        sweep_id: which sweep.
        uri: address of the store.
        previews: as of the base class.

    Raises:
        DataError: from most methods, if the store refuses for good; while it is away, they wait.
        UserError: from what brings records here: one is damaged.
    """

    def __init__(self, home: Home, sweep_id: str, uri: str, previews: Sequence[str] = ()) -> None:
        super().__init__(home, sweep_id, previews)
        self._store = open_store(uri)
        self._outbox = Outbox(self._store)
        self._key = KEYS.sweep(sweep_id).as_posix()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End, once the store has everything; after an error only if that is soon."""
        with contextlib.closing(self._outbox):
            if kind is None:
                self._outbox.flush()
            else:
                with contextlib.suppress(DataError):  # the next start hands it over
                    self._outbox.flush(_SOON_S)

    def begin(self) -> None:
        """List once; fetch results that are not here, hand over those that are not there."""
        super().begin()
        for name in ("sweep.json", TABLE_FILE):
            self.keep(name)
        stored = self._listing()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(lambda item: self._catch_up(*item), stored.items()))
        for result in self._trials.glob(f"*/{RESULT_FILE}"):
            if RESULT_FILE not in stored.get(result.parent.name, ()):
                self._hand_over(result)
        self._outbox.flush()

    def pull_supernet(self, key: str) -> None:
        """See the base class."""
        measures = self._read((KEYS.supernet(key) / SUPERNET_RESULT).as_posix())
        if measures is not None:
            write_bytes(self._home.supernet(key) / SUPERNET_RESULT, measures)

    def pull(self, steps: Iterable[TrialJob], *, wait: bool = True) -> None:
        """See the base class."""
        away = () if wait else (StoreAwayError,)
        with contextlib.suppress(*away):
            for step in steps:
                if not (step.folder / RESULT_FILE).exists():
                    self._fetch_result(PurePosixPath(step.trial_id), wait=wait)

    def push(self, steps: Iterable[TrialJob]) -> None:
        """See the base class."""
        for step in steps:
            self._hand_over(step.folder / RESULT_FILE)
            for name in STATE_FILES:
                self._outbox.delete(f"{self._key}/trials/{step.trial_id}/{name}")

    def keep(self, name: str) -> None:
        """See the base class."""
        path = self._home.sweep(self._sweep_id) / name
        if path.exists():
            self._outbox.write(f"{self._key}/{name}", path)

    def flush(self) -> None:
        """See the base class."""
        self._outbox.flush()

    def drop_weights(self, trial_id: str) -> None:
        """See the base class."""
        for name in (*WEIGHTS, *self._previews):
            self._outbox.delete(f"{self._key}/trials/{trial_id}/{name}")

    def tidy(self, keeps_weights: Callable[[str], bool]) -> None:
        """See the base class."""
        super().tidy(lambda _: True)
        self._outbox.flush()
        for trial_id, names in self._listing().items():
            if RESULT_FILE not in names:
                continue
            for name in names.intersection(STATE_FILES):
                self._outbox.delete(f"{self._key}/trials/{trial_id}/{name}")
            if names.intersection(WEIGHTS) and not keeps_weights(trial_id):
                self.drop_weights(trial_id)

    @contextlib.contextmanager
    def package(self, trial_id: str) -> Iterator[Path]:
        """See the base class."""
        below = f"{self._key}/trials/{trial_id}/"
        with tempfile.TemporaryDirectory() as folder:
            for item in self._store.objects(below):
                if item.path[len(below) :] in (ARCHITECTURE_FILE, *WEIGHTS):
                    download(self._store, item, Path(folder) / item.path[len(below) :])
            yield Path(folder)

    def _catch_up(self, trial_id: str, names: Collection[str]) -> None:
        trial = PurePosixPath(trial_id)
        if (self._trials / trial / RESULT_FILE).exists():
            return
        if RESULT_FILE in names:
            self._fetch_result(trial, wait=True)
        elif TRIAL_FILE in names and (begun := self._read_record(trial / TRIAL_FILE)) is not None:
            write_bytes(self._trials / trial / TRIAL_FILE, begun)

    def _listing(self) -> dict[str, set[str]]:
        """Return the names of the files of each trial."""
        below, found = f"{self._key}/trials/", dict[str, set[str]]()
        for item in patiently(lambda: self._store.objects(below)):
            trial_id, _, name = item.path[len(below) :].partition("/")
            found.setdefault(trial_id, set()).add(name)
        return found

    def _fetch_result(self, trial: PurePosixPath, *, wait: bool) -> None:
        """Fetch result and architecture of a trial, if it has ended; the result is the last."""
        result = self._read_record(trial / RESULT_FILE, wait=wait)
        if result is not None:
            for name in (*self._previews, ARCHITECTURE_FILE):
                self._fetch(trial / name, wait=wait)
            write_bytes(self._trials / trial / RESULT_FILE, result)

    def _read_record(self, path: PurePosixPath, *, wait: bool = True) -> bytes | None:
        """Read the record of a trial; one that is damaged shall not come here."""
        key = f"{self._key}/trials/{path}"
        content = self._read(key, wait=wait)
        if content is not None:
            parse_trial(content, f"object {self._store.uri}/{key}")
        return content

    def _fetch(self, path: PurePosixPath, *, wait: bool = True) -> None:
        """Fetch a small file of a trial, if there is one."""
        content = self._read(f"{self._key}/trials/{path}", wait=wait)
        if content is not None:
            write_bytes(self._trials / path, content)

    def _read(self, key: str, *, wait: bool = True) -> bytes | None:
        read = functools.partial(self._store.read, key)
        found = patiently(read) if wait else read()
        return None if found is None else found.content

    def _hand_over(self, result: Path) -> None:
        """Write a result to the store, and before it what belongs to it."""
        folder = result.parent
        for name in (*self._previews, *_RESULTS):
            if (folder / name).exists():
                self._outbox.write(f"{self._key}/trials/{folder.name}/{name}", folder / name)


def files_of(
    home: Home, sweep_id: str, storage: str | None, previews: Sequence[str] = ()
) -> HomeFiles:
    """Return the files of a sweep.

    Args:
        home: of the driver.
        sweep_id: which sweep.
        storage: address of the object store; ``None``: the home folder.
        previews: names of the pictures that its trials leave, if they leave any.
    """
    if storage is None:
        return HomeFiles(home, sweep_id, previews)
    return StoreFiles(home, sweep_id, storage, previews)
