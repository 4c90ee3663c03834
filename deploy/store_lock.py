"""A lock for processes that share nothing but an object store: one object that says who holds it.

It is made only if it is not there, and renewed while its holder lives. Once it has not been
renewed for :data:`EXPIRY_S`, somebody else may take its place; both by conditional writes, of
which the store lets one succeed. Ages are by the store's own clock.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from deploy.object_store import ObjectStore
from deploy.store_errors import StoreAwayError
from pas_trainer import DataError

EXPIRY_S = 120
"""A holder that has not renewed its lock for so long is taken for dead."""

RENEW_S = 20

_log = logging.getLogger(__name__)


class LockHeldError(Exception):
    """Somebody else holds the lock.

    Attributes:
        owner: who, as given to :class:`StoreLock`.
        wait_s: seconds until it expires, if its holder is dead.
    """

    def __init__(self, owner: str, wait_s: float) -> None:
        super().__init__(f"held by {owner}")
        self.owner, self.wait_s = owner, wait_s


@dataclass(frozen=True, slots=True)
class _Held:
    about: dict[str, Any]
    etag: str
    age_s: float


class StoreLock:
    """One lock; use as a context manager.

    Args:
        store: where its object lies.
        path: of that.
        owner: who wants it, for a person.
        token: unlike that of any other holder that may live: who held it by this one is followed.
        lost: called from another thread, once, if somebody else has taken the lock over.

    Raises:
        LockHeldError: on entering: somebody else holds it.
        DataError: on entering: the store refuses, or knows no conditional writes.
    """

    def __init__(
        self,
        store: ObjectStore,
        path: str,
        owner: str,
        token: str,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._store, self._path, self._lost = store, path, lost
        self._about = {"owner": owner, "token": token}
        self._renewals = 0
        self._etag: str | None = None
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lock", daemon=True)

    def __enter__(self) -> StoreLock:
        """Take the lock."""
        if not self._write(None) and not self._is_mine():
            held = self._held()
            if held is not None and held.age_s < EXPIRY_S:
                raise LockHeldError(held.about["owner"], EXPIRY_S - held.age_s)
            if not self._write(None if held is None else held.etag) and not self._is_mine():
                other = self._held()
                name = "another process" if other is None else other.about["owner"]
                raise LockHeldError(name, EXPIRY_S)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self._released.set()
        self._thread.join()
        with suppress(DataError):  # it expires
            if self._is_mine():
                self._store.delete(self._path)

    def renew(self) -> bool:
        """Say that the holder lives; ``False`` if somebody else has taken the lock.

        Raises:
            DataError: the store does not answer, or refuses.
        """
        if self._write(self._etag) or self._is_mine():
            return True
        return self._held() is None and self._write(None)

    def _keep(self) -> None:
        while not self._released.wait(RENEW_S):
            try:
                is_mine = self.renew()
            except StoreAwayError:
                continue
            except DataError as error:
                _log.warning("the sweep's lock cannot be renewed: %s", error)
                continue
            if not is_mine:
                self._lost()
                return

    def _write(self, etag: str | None) -> bool:
        """Write the object over the one with this ETag; each time it is another one."""
        self._renewals += 1
        content = json.dumps({**self._about, "renewals": self._renewals}).encode()
        written = self._store.write_over(self._path, content, etag)
        self._etag = written or self._etag
        return written is not None

    def _is_mine(self) -> bool:
        """Whether it is held by this process; an answer to an earlier write may have been lost."""
        held = self._held()
        if held is None or held.about["token"] != self._about["token"]:
            return False
        self._etag = held.etag
        return True

    def _held(self) -> _Held | None:
        found = self._store.read(self._path)
        if found is None:
            return None
        try:
            about = json.loads(found.content)
            about = {"owner": str(about["owner"]), "token": str(about["token"])}
        except (ValueError, KeyError, TypeError):
            about = {"owner": "something that is no lock", "token": ""}
        return _Held(about, found.etag, found.age_s)
