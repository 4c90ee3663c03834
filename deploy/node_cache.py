"""What is staged on one node: named by content, shared by processes, bounded in size.

::

    staged/VERSION/        the files
    staged/VERSION.json    written last: staged whole; its time of change is when it was last used
    staged/VERSION.lock    held (shared) by every process that uses the files
    staged/VERSION.parts/  there before the files, until they are complete; holds drafts
    staged/staging.lock    held by the one process that stages
    .work/                 files of the trials that run on this node; not counted, not evicted

Whatever else lies in the cache folder, or in ``staged``, is neither counted nor touched. The kernel
drops a lock with the process that held it, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pas_trainer import DataError

MIB = 2**20
SPARE_BYTES = 64 * MIB
"""What is left free on the disk."""

_BLOCK = 4096
"""Bytes by which files take room on a disk."""

_OWN = re.compile(r"([0-9a-f]{24})(?:\.json|\.parts)")
"""Names by which a version is known as one of the cache's own; see :func:`deploy.version_of`."""

_in_use: dict[Path, IO[str]] = {}
"""Lock files of the data sets that this process uses, by folder."""


@dataclass(frozen=True, slots=True)
class NodeCache:
    """The folder that holds them.

    Attributes:
        cache: on a local disk; may hold other things as well.
    """

    cache: Path

    @property
    def root(self) -> Path:
        """Where all that is staged lies."""
        return self.cache / "staged"

    def folder(self, version: str) -> Path:
        """Where the files of a data set lie."""
        return self.root / version

    def parts(self, version: str) -> Path:
        """Where its drafts are while it is being staged."""
        return self.root / f"{version}.parts"

    def begin(self, version: str) -> None:
        """Make its folders; while there are parts, the files are known to be the cache's."""
        self.parts(version).mkdir(parents=True, exist_ok=True)
        self.folder(version).mkdir(exist_ok=True)

    def is_complete(self, version: str) -> bool:
        """Whether it has been staged whole."""
        return self._marker(version).exists()

    def complete(self, version: str, about: dict[str, Any]) -> None:
        """Mark it as staged whole; ``about`` must give its ``bytes``."""
        os.sync()  # files before the mark, should the power fail
        draft = self.root / f"{version}.json.draft"
        draft.write_text(json.dumps(about, indent=1))
        draft.replace(self._marker(version))
        shutil.rmtree(self.parts(version), ignore_errors=True)

    def use(self, version: str) -> Path | None:
        """Return the folder of a data set, which stays there until this process ends.

        ``None`` if it has not been staged whole.
        """
        folder = self.folder(version)
        if not self.is_complete(version):
            self.release(version)
            return None
        if folder not in _in_use:
            lock = _locked(self._lock(version), fcntl.LOCK_SH)
            assert lock is not None
            if not self.is_complete(version):  # evicted meanwhile
                lock.close()
                return None
            _in_use[folder] = lock
        with contextlib.suppress(OSError):
            os.utime(self._marker(version))
        return folder

    def release(self, version: str) -> None:
        """Let a data set be evicted that this process used."""
        lock = _in_use.pop(self.folder(version), None)
        if lock is not None:
            lock.close()

    @contextlib.contextmanager
    def only_stager(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the node's right to stage; ``waiting`` is called if another process has it."""
        path = self.root / "staging.lock"
        lock = _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if lock is None:
            waiting()
            lock = _locked(path, fcntl.LOCK_EX)
        assert lock is not None
        with lock:
            yield

    def make_room(
        self,
        version: str,
        need: int,
        limit: int | None,
        what: str = "data.root",
        have: int | None = None,
    ) -> int:
        """Evict data sets that nobody uses, least recently used first, until another fits.

        Args:
            version: what is to be staged.
            need: bytes of it that are still to be written.
            limit: bytes that the cache may hold in all; ``None``: as the disk has room.
            what: whose files they are, for the sentence.
            have: bytes of it that are here; ``None``: as they are found.

        Returns:
            Bytes for which there would be room beside it.

        Raises:
            DataError: it does not fit, whatever is evicted; then nothing is.
        """
        sizes = {name: self.size(name) for name in self._versions() if name != version}
        have = self.size(version) if have is None else have
        free = shutil.disk_usage(self.root).free
        excess = need + SPARE_BYTES - free if need else 0
        if limit is not None:
            excess = max(excess, sum(sizes.values()) + have + need - limit)
        with contextlib.ExitStack() as locks:
            victims: list[str] = []
            for name in sorted(sizes, key=self._last_used):
                if excess <= 0:
                    break
                lock = _locked(self._lock(name), fcntl.LOCK_EX | fcntl.LOCK_NB)
                if lock is not None:
                    locks.enter_context(lock)
                    victims.append(name)
                    excess -= sizes[name]
            if excess > 0:
                raise DataError(self._no_room(what, need, have, free, limit))
            for name in victims:
                self._evict(name)
        return -excess

    def _no_room(self, what: str, need: int, have: int, free: int, limit: int | None) -> str:
        wanted = f"{-(-(need + have) // MIB)} MiB on this node"
        if need and have:
            wanted += f", {-(-need // MIB)} of them still to come"
        bounds = [f"has {free // MIB} MiB free", f"must leave {SPARE_BYTES // MIB} MiB free"]
        if limit is not None:
            bounds = [", ".join(bounds), f"may hold {limit // MIB} MiB in all (PAS_CACHE_GIB)"]
        return (
            f"{what} needs {wanted}, but the cache {self.cache} {' and '.join(bounds)}, data sets "
            "in use included; make room, or set PAS_CACHE to a larger disk"
        )

    def _evict(self, version: str) -> None:
        self.parts(version).mkdir(exist_ok=True)  # what a kill leaves is still known
        self._marker(version).unlink(missing_ok=True)
        shutil.rmtree(self.folder(version), ignore_errors=True)
        shutil.rmtree(self.parts(version), ignore_errors=True)

    def _versions(self) -> list[str]:
        """Return what this cache has staged, wholly or in part."""
        found = (_OWN.fullmatch(path.name) for path in self.root.iterdir())
        return sorted({match[1] for match in found if match})

    def _last_used(self, version: str) -> float:
        marker, folder = self._marker(version), self.folder(version)
        found = next((path for path in (marker, folder) if path.exists()), None)
        return found.stat().st_mtime if found else 0.0

    def size(self, version: str) -> int:
        """Return what a data set takes here, in bytes."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # none, or damaged
            return int(json.loads(self._marker(version).read_text())["bytes"])
        return disk_bytes(self.folder(version)) + disk_bytes(self.parts(version))

    def _marker(self, version: str) -> Path:
        return self.root / f"{version}.json"

    def _lock(self, version: str) -> Path:
        return self.root / f"{version}.lock"


def blocks(size: int) -> int:
    """Return what a file of so many bytes takes on disk, in bytes."""
    return -(-size // _BLOCK) * _BLOCK


def disk_bytes(folder: Path) -> int:
    """Return what the files below a folder take on disk, in bytes."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _locked(path: Path, how: int) -> IO[str] | None:
    """Open a file with a lock, which ends when it is closed; ``None`` if that is not to be had."""
    file = path.open("a+")
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        file.close()
        return None
    except BaseException:
        file.close()
        raise
    return file
