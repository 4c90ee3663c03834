"""Image folders on an object store, staged on this node: ``s3://bucket/prefix`` → a local folder.

Below the prefix lie images as single objects, ``train/<class>/*`` and ``test/<class>/*``, or
shards: ``.tar`` objects, wherever they lie, that unpack to that layout; or both. Nothing else is
fetched. The objects that count (path, size and ETag) give the data set's version, which names its
folder, so that changed data is another folder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from deploy.fetching import Fetcher, drop_drafts, is_image, is_shard
from deploy.node_cache import NodeCache, blocks, disk_bytes
from deploy.object_reader import RemoteObject
from deploy.object_store import ObjectStore
from deploy.staging_room import Room
from pas_trainer import DataError

THREADS = 16
_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class StagingProgress:
    """How far a staging is.

    Attributes:
        objects, num_objects: fetched so far, those of an earlier attempt included; of how many.
        fetched_bytes, num_bytes: of the objects that were missing at the start.
        waiting: another process stages; this one waits for it.
    """

    objects: int = 0
    num_objects: int = 0
    fetched_bytes: int = 0
    num_bytes: int = 0
    waiting: bool = False


Progress = Callable[[StagingProgress], None]


def stage(
    uri: str,
    cache: Path,
    *,
    limit_bytes: int | None = None,
    version: str | None = None,
    progress: Progress = lambda _: None,
) -> Path:
    """Bring an image folder to this node, unless it is here, and return where it lies.

    One process of a node does the work while others wait. What a killed process has fetched
    whole is not fetched again. The folder stays until this process ends; later it may be evicted
    to make room for others.

    Args:
        uri: ``s3://bucket/prefix``.
        cache: folder on a local disk that all processes of the node share.
        limit_bytes: what the cache may hold in all, in bytes; ``None``: as the disk has room.
        version: content that is expected (the name of the folder that an earlier call returned);
            if it is here already, the store is not asked. ``None``: what the store has now.
        progress: called at least once a second while objects are fetched.

    Returns:
        A folder with ``train/`` and ``test/``; its name is the version.

    Raises:
        DataError: one sentence: the bucket, the permission or the objects are missing, the store
            cannot be reached, an object is corrupt, the content is another than expected, or the
            disk is too small.
    """
    try:
        return _staged(uri, NodeCache(cache), limit_bytes, version, progress)
    except OSError as error:
        raise DataError(_storage_sentence(error, cache)) from error


def _staged(
    uri: str, node: NodeCache, limit_bytes: int | None, version: str | None, progress: Progress
) -> Path:
    node.root.mkdir(parents=True, exist_ok=True)
    if version is not None and (folder := node.use(version)) is not None:
        return folder
    with contextlib.closing(ObjectStore(uri, THREADS)) as store:
        objects = _images_and_shards(store)
        found = version_of(objects)
        if version not in {None, found}:
            raise DataError(
                f"data.root is {uri}, whose objects have changed since the sweep was planned; "
                "run the same command again to go on with the new ones"
            )
        while (folder := node.use(found)) is None:
            with node.only_stager(lambda: progress(StagingProgress(waiting=True))):
                if not node.is_complete(found):
                    _Staging(store, node, objects, found, progress, limit_bytes).run()
    return folder


def version_of(objects: Sequence[RemoteObject]) -> str:
    """Return a 24-digit hash of the objects' paths, sizes and ETags, in whatever order."""
    lines = (f"{item.path}\0{item.size}\0{item.etag}\n" for item in sorted(objects))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:24]


class _Staging:
    """The work of the one process that stages a data set."""

    def __init__(
        self,
        store: ObjectStore,
        node: NodeCache,
        objects: Sequence[RemoteObject],
        version: str,
        progress: Progress,
        limit_bytes: int | None,
    ) -> None:
        self._store, self._node, self._version = store, node, version
        self._objects, self._progress = objects, progress
        self._folder = node.folder(version)
        self._stop, self._lock, self._fetched = threading.Event(), threading.Lock(), 0
        parts = node.parts(version)
        drop_drafts(parts)
        self._room = Room(node, version, limit_bytes)
        self._fetcher = Fetcher(store, self._folder, parts, self._room, self._count)

    def run(self) -> None:
        """Fetch what is missing, check the whole and mark it as complete."""
        missing = [item for item in self._objects if not self._fetcher.has(item)]
        self._room.book(sum(blocks(item.size) for item in missing))
        self._node.begin(self._version)
        self._fetch(missing)
        self._fetcher.check_disjoint(self._objects)
        if not (self._folder / "train").is_dir():
            raise DataError(
                f"data.root is {self._store.uri}, whose shards hold no images "
                "train/<class>/*; pack folders train and test at the top of the archives"
            )
        size = disk_bytes(self._folder)
        self._room.check(size)
        about = {"uri": self._store.uri, "objects": len(self._objects), "bytes": size}
        self._node.complete(self._version, about)

    def _fetch(self, missing: Sequence[RemoteObject]) -> None:
        """Fetch objects by several threads, a few of them ahead of time."""
        before, total = len(self._objects) - len(missing), sum(item.size for item in missing)
        rest, done = iter(missing), 0
        with ThreadPoolExecutor(THREADS, "staging") as pool:
            try:
                running = {pool.submit(self._fetcher.fetch, i) for i in islice(rest, 2 * THREADS)}
                while running:
                    ended: set[Future[None]]
                    ended, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in ended:
                        future.result()
                    done += len(ended)
                    running |= {
                        pool.submit(self._fetcher.fetch, i) for i in islice(rest, len(ended))
                    }
                    self._progress(
                        StagingProgress(before + done, len(self._objects), self._fetched, total)
                    )
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _count(self, num_bytes: int) -> None:
        """Count what a thread has read, and end it when the others end."""
        with self._lock:
            self._fetched += num_bytes
        if self._stop.is_set():
            raise DataError("staging was interrupted; run the same command again to go on")


def _images_and_shards(store: ObjectStore) -> list[RemoteObject]:
    """List the objects that make up a data set.

    Raises:
        DataError: there are none, or a key is no path of a file.
    """
    every = store.objects()
    objects = [item for item in every if is_shard(item.path) or is_image(item.path)]
    if not objects:
        others = f"{len(every)} others, such as {every[0].path}" if every else "nothing at all"
        raise DataError(
            f"data.root is {store.uri}, but there are no images train/<class>/* and "
            f"test/<class>/* and no .tar objects below it ({others}); correct data.root or "
            "upload them"
        )
    keys = {item.path for item in objects}
    for item in objects:
        if (reason := _unfit(item.path, keys)) is not None:
            raise DataError(
                f"object {store.name(item)} cannot be staged, since {reason}; rename or remove it"
            )
    return objects


def _unfit(key: str, keys: Collection[str]) -> str | None:
    """Return why a key cannot be the path of a file beside those of other keys, if so."""
    path = PurePosixPath(key)
    if path.as_posix() != key or ".." in path.parts:
        return "its key is no plain path"
    if any(len(os.fsencode(part)) > _LONGEST_NAME for part in path.parts):
        return f"a name in its key has more than {_LONGEST_NAME} bytes"
    folder = next((parent for parent in map(str, path.parents) if parent in keys), None)
    return None if folder is None else f"{folder}, a folder in its key, is an object as well"


def _storage_sentence(error: OSError, cache: Path) -> str:
    if error.errno == errno.ENOSPC:
        return (
            f"the disk of the cache {cache} is full; make room or set PAS_CACHE to a larger disk, "
            "then run the same command again to go on"
        )
    reason = error.strerror or type(error).__name__
    where = f" ({error.filename})" if error.filename else ""
    return f"the cache {cache} cannot be used: {reason}{where}; set PAS_CACHE to another folder"
