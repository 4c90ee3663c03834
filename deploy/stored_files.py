"""Files kept on an object store: brought here, and written there in order and with patience."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from deploy.node_cache import NodeCache, blocks, disk_bytes
from deploy.object_reader import BadReadError, RemoteObject
from deploy.object_store import ObjectStore
from deploy.staging import version_of
from deploy.store_errors import StoreAwayError
from pas_trainer import DataError
from pas_trainer.whole_files import whole_file

BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses between attempts while a store is away; the last one is repeated."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


def patiently(
    call: Callable[[], T],
    given_up: threading.Event | None = None,
    limit_s: float = math.inf,
) -> T:
    """Call until the store is there, however long that takes.

    Args:
        call: what to do; may be done twice.
        given_up: once set, the next failure is the last.
        limit_s: so is one after so many seconds.

    Raises:
        StoreAwayError: the store is away, and not waited for any longer.
        DataError: what the store refuses for good.
    """
    waiting = given_up or threading.Event()
    failures, end = 0, time.monotonic() + limit_s
    while True:
        try:
            result = call()
        except (StoreAwayError, BadReadError) as error:
            pause = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
            if waiting.wait(pause) or time.monotonic() > end:
                raise
            failures += 1
            if failures == 1:
                _log.warning("%s; trying again until it answers", error)
        else:
            return result


def download(store: ObjectStore, item: RemoteObject, target: Path) -> None:
    """Bring an object to a file, which appears whole or not at all.

    Raises:
        BadReadError: its content broke off.
        DataError: it cannot be read.
        OSError: the disk gives out.
    """
    with (
        whole_file(target) as draft,
        contextlib.closing(store.open(item)) as reader,
        draft.open("wb") as file,
    ):
        while piece := reader.read(2**20):
            file.write(piece)
        reader.finish()


def share(
    store: ObjectStore,
    below: str,
    names: Collection[str],
    cache: Path,
    limit_bytes: int | None = None,
) -> Path:
    """Bring objects to this node, unless they are here, and return their folder.

    As with :func:`deploy.stage`, one process of a node does the work and all share the files, which
    stay until this process ends.

    Args:
        store: where they are.
        below: what their paths begin with, a slash at its end.
        names: what follows; those that are not there are left out.
        cache: folder on a local disk that all processes of the node share.
        limit_bytes: what the cache may hold in all.

    Raises:
        DataError: they cannot be read, or the disk is too small.
        OSError: the disk gives out.
    """
    wanted = [below + name for name in names]
    items = [item for path in wanted for item in store.objects(path) if item.path == path]
    if not items:
        raise DataError(
            f"below {store.uri}/{below} there is none of {', '.join(names)}; "
            "run the same command again"
        )
    node, version = NodeCache(cache), version_of(items)
    node.root.mkdir(parents=True, exist_ok=True)
    while (folder := node.use(version)) is None:
        with node.only_stager(lambda: None):
            if not node.is_complete(version):
                size = sum(blocks(item.size) for item in items)
                node.make_room(version, size, limit_bytes, store.uri)
                node.begin(version)
                for item in items:
                    download(store, item, node.folder(version) / item.path[len(below) :])
                about = {"uri": f"{store.uri}/{below}", "bytes": disk_bytes(node.folder(version))}
                node.complete(version, about)
    return folder


@dataclass(frozen=True, slots=True)
class _Write:
    """What is to be done to one object; ``None`` deletes it."""

    path: str
    content: bytes | IO[bytes] | None

    def do(self, store: ObjectStore) -> None:
        if self.content is None:
            store.delete(self.path)
            return
        if not isinstance(self.content, bytes):
            self.content.seek(0)
        store.write(self.path, self.content)

    def close(self) -> None:
        if not isinstance(self.content, bytes | None):
            self.content.close()


class Outbox:
    """Writes to a store, done one after the other by a thread, each until the store takes it.

    A file is written as it is when it is handed over: one that takes its place later waits for its
    own turn, so that order holds through any outage.

    Args:
        store: where to.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._changed = threading.Condition()
        self._queue: deque[_Write] = deque()
        self._current: _Write | None = None
        self._error: DataError | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
        self._thread.start()

    def write(self, path: str, content: bytes | Path) -> None:
        """Write an object; what waits as the last one, for the same object, is superseded.

        Raises:
            DataError: the store has refused something for good.
        """
        self._put(_Write(path, content if isinstance(content, bytes) else content.open("rb")))

    def delete(self, path: str) -> None:
        """Delete an object, if there is one.

        Raises:
            DataError: the store has refused something for good.
        """
        self._put(_Write(path, None))

    def flush(self, limit_s: float | None = None) -> None:
        """Wait until the store has everything; for so many seconds, if so told.

        Raises:
            DataError: it has refused something for good.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._error or not (self._queue or self._current), limit_s
            )
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        """End the thread; what still waits is given up."""
        self._closed.set()
        with self._changed:
            while self._queue:
                self._queue.popleft().close()
            self._changed.notify_all()

    def _put(self, write: _Write) -> None:
        with self._changed:
            if self._error is not None:
                write.close()
                raise self._error
            if self._queue and self._queue[-1].path == write.path:
                self._queue.pop().close()
            self._queue.append(write)
            self._changed.notify_all()

    def _work(self) -> None:
        while (write := self._next()) is not None:
            error = None
            try:
                patiently(lambda write=write: write.do(self._store), self._closed)  # type: ignore[misc]
            except DataError as refused:
                error = refused
            except Exception as unforeseen:  # or whoever flushes would wait for ever
                error = DataError(f"{write.path} cannot be stored: {unforeseen!r}")
            finally:
                write.close()
            with self._changed:
                self._current, self._error = None, error
                self._changed.notify_all()
            if error is not None:
                return

    def _next(self) -> _Write | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed.is_set())
            self._current = self._queue.popleft() if self._queue else None
            return self._current
