"""Room on a node's disk for a data set that is being staged.

Before anything is fetched, room is made for the objects as the store has them. The files of a shard
may take more than that: each takes whole blocks. They are counted while it is unpacked, and more
room is made, or the staging refused, before the limit is passed.
"""

from __future__ import annotations

import threading

from deploy.node_cache import MIB, NodeCache, blocks

_AHEAD = 16 * MIB
"""So much more is taken at once, where nothing has to be evicted for it."""


class Room:
    """What a data set may take; several threads may ask for more.

    Args:
        node: the cache of the node.
        version: what is staged.
        limit: bytes that the cache may hold in all; ``None``: as the disk has room.
    """

    def __init__(self, node: NodeCache, version: str, limit: int | None) -> None:
        self._node, self._version, self._limit = node, version, limit
        self._lock = threading.Lock()
        self._have = node.size(version)
        self._need = self._granted = self._written = 0

    def book(self, num_bytes: int, what: str = "data.root") -> None:
        """Make room for so many bytes more, or fewer.

        Args:
            num_bytes: as files take them on disk.
            what: takes them, for the sentence.

        Raises:
            DataError: there is no more room.
        """
        with self._lock:
            self._need += num_bytes
            if self._need > self._granted:
                have, need = self._have + self._written, self._need - self._written
                left = self._node.make_room(self._version, need, self._limit, what, have)
                self._granted = self._need + min(left, _AHEAD)

    def wrote(self, num_bytes: int) -> None:
        """Count bytes, for which room was booked, as written."""
        with self._lock:
            self._written += num_bytes

    def check(self, num_bytes: int) -> None:
        """Check that the whole, as the disk tells its size, is within the limit.

        Raises:
            DataError: it is not.
        """
        self._node.make_room(self._version, 0, self._limit, have=num_bytes)


class Unpacking:
    """The files of one shard, which are counted before they are written.

    Args:
        room: where room for the archive itself is booked.
        size: of the archive.
    """

    def __init__(self, room: Room, size: int) -> None:
        self._room, self._archive = room, blocks(size)
        self._booked, self._used = self._archive, 0

    def add(self, size: int) -> None:
        """Count a file.

        Raises:
            DataError: there is no room for it.
        """
        used = self._used + blocks(size)
        if used > self._booked:
            self._room.book(
                used - self._booked, "data.root (whose shards unpack to more than their own size)"
            )
            self._booked = used
        self._room.wrote(used - self._used)
        self._used = used

    def keep(self) -> None:
        """Give back what was booked and not used."""
        self._room.book(self._used - self._booked)

    def drop(self) -> None:
        """Count the files as gone: the shard is to be read again."""
        self._room.wrote(-self._used)
        self._room.book(self._archive - self._booked)
