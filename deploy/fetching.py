"""One object of a data set, from the store to files: read, checked, then moved into place."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from deploy.node_cache import blocks
from deploy.object_reader import BadReadError, ObjectReader, RemoteObject
from deploy.object_store import ObjectStore
from deploy.staging_room import Room, Unpacking
from pas_trainer import DataError
from pas_trainer.data.sources import IMAGE_SUFFIXES

_OF_NAMES = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG)
"""Errors of names that a disk does not take, or not side by side."""

ATTEMPTS = 3
"""How often an object is read that does not arrive as the store has told."""

_SPLITS = frozenset({"train", "test", "val"})


def is_shard(path: str) -> bool:
    """Whether an object is a shard, by its path below the prefix."""
    return path.lower().endswith(".tar")


def is_image(path: str) -> bool:
    """Whether an object, or a member of a shard, is an image of a split."""
    parts = PurePosixPath(path)
    return (
        len(parts.parts) > 2
        and parts.parts[0] in _SPLITS
        and parts.suffix.lower() in IMAGE_SUFFIXES
    )


def drop_drafts(parts: Path) -> None:
    """Delete what a killed process has left half fetched."""
    for path in parts.glob("*.draft"):
        path.unlink()
    for path in parts.glob("*.unpacking"):
        shutil.rmtree(path)


class Fetcher:
    """Fetches objects into a folder; several threads may, each another object.

    Args:
        store: where they are.
        folder: where their files go.
        parts: for drafts, and a list of what each shard held.
        room: where room for the objects is booked.
        count: called with the number of bytes of each piece that has been read; may raise.
    """

    def __init__(
        self,
        store: ObjectStore,
        folder: Path,
        parts: Path,
        room: Room,
        count: Callable[[int], None],
    ) -> None:
        self._store, self._folder, self._parts = store, folder, parts
        self._room, self._count = room, count

    def has(self, item: RemoteObject) -> bool:
        """Whether an object has been fetched whole."""
        if is_shard(item.path):
            return self._part(item, "names").exists()
        file = self._folder / item.path
        return file.is_file() and file.stat().st_size == item.size

    def fetch(self, item: RemoteObject) -> None:
        """Fetch one object.

        Raises:
            DataError: it cannot be read, stays corrupt, is a shard that may not be unpacked, or
                its names cannot be files.
            OSError: the disk gives out.
        """
        for _ in range(ATTEMPTS):
            try:
                with contextlib.closing(self._store.open(item)) as reader:
                    (self._unpack if is_shard(item.path) else self._save)(item, reader)
            except BadReadError as error:
                reason = str(error)
            except OSError as error:
                if error.errno not in _OF_NAMES:
                    raise
                raise DataError(self._bad_name(item, error)) from None
            else:
                return
        raise DataError(
            f"object {self._store.name(item)} is corrupt: {reason}, {ATTEMPTS} times; upload it "
            "again"
        )

    def _bad_name(self, item: RemoteObject, error: OSError) -> str:
        """Return the sentence for a name that the disk does not take."""
        place = Path(error.filename2 or error.filename or "")
        for folder in (self._folder, self._part(item, "unpacking")):
            place = place.relative_to(folder) if place.is_relative_to(folder) else place
        return (
            f"object {self._store.name(item)} cannot be staged: the disk takes no file {place} "
            f"({error.strerror}); give it a shorter name, or one that is no folder of others"
        )

    def check_disjoint(self, items: Sequence[RemoteObject]) -> None:
        """Check that no two objects bring the same file: which one stays would be chance.

        Raises:
            DataError: naming them.
        """
        holder: dict[str, RemoteObject] = {}
        for item in items:
            for name in self._names(item):
                if (other := holder.setdefault(name, item)) is not item:
                    raise DataError(
                        f"objects {self._store.name(other)} and {self._store.name(item)} both "
                        f"hold {name}; remove it from one of them"
                    )

    def _save(self, item: RemoteObject, reader: ObjectReader) -> None:
        draft, target = self._part(item, "draft"), self._folder / item.path
        with draft.open("wb") as file:
            while piece := reader.read(2**20):
                file.write(piece)
                self._count(len(piece))
        reader.finish()
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.replace(target)
        self._room.wrote(blocks(item.size))

    def _unpack(self, item: RemoteObject, reader: ObjectReader) -> None:
        """Unpack a shard while it arrives, and move its files once it is known to be whole."""
        draft, unpacking = self._part(item, "unpacking"), Unpacking(self._room, item.size)
        draft.mkdir()
        try:
            try:
                names = self._extract(reader, draft, unpacking)
            except tarfile.TarError as error:
                reader.finish()  # if it did not arrive whole, that is the reason
                raise DataError(
                    f"object {self._store.name(item)} cannot be unpacked: {error}; pack plain "
                    "files into an uncompressed tar archive and upload it again"
                ) from None
            reader.finish()
            self._move(item, draft, names)
        except BadReadError:
            unpacking.drop()
            raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        unpacking.keep()

    def _move(self, item: RemoteObject, draft: Path, names: Sequence[str]) -> None:
        """Move the files of a shard into place, and then list them."""
        for name in names:
            target = self._folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (draft / name).replace(target)
        listed = self._part(item, "listing")
        listed.write_bytes(b"\0".join(os.fsencode(name) for name in names))
        listed.replace(self._part(item, "names"))

    def _extract(self, reader: ObjectReader, folder: Path, unpacking: Unpacking) -> list[str]:
        """Extract the images of an archive and return their paths."""
        names: dict[str, None] = {}  # of two members of one name the later counts
        counted = _Counted(reader, self._count)
        with tarfile.open(fileobj=counted, mode="r|") as archive:  # type: ignore[call-overload]
            for member in archive:
                name = PurePosixPath(member.name).as_posix()
                if member.isdir() or not is_image(name):
                    continue
                unpacking.add(member.size)
                _write_plain_file(archive, member, folder / name)
                names[name] = None
            _check_end(archive.fileobj)
        return list(names)

    def _names(self, item: RemoteObject) -> list[str]:
        """Return the files that a fetched object brought."""
        if not is_shard(item.path):
            return [item.path]
        listed = self._part(item, "names").read_bytes()
        return [os.fsdecode(name) for name in listed.split(b"\0") if name]

    def _part(self, item: RemoteObject, kind: str) -> Path:
        name = hashlib.sha256(item.path.encode()).hexdigest()[:24]
        return self._parts / f"{name}.{kind}"


class _Counted:
    """A reader that tells how much has been read."""

    def __init__(self, reader: ObjectReader, count: Callable[[int], None]) -> None:
        self._reader, self._count = reader, count

    def read(self, size: int) -> bytes:
        piece = self._reader.read(size)
        self._count(len(piece))
        return piece


def _check_end(stream: Any) -> None:
    """Check that an archive ends where its members do; tarfile takes damage for the end.

    Raises:
        tarfile.TarError: there is no end mark (blocks of zeros), or something follows it.
    """
    num_zeros = 0
    while piece := stream.read(2**16):
        if piece.strip(b"\0"):
            raise tarfile.ReadError("it is damaged, or something follows its end")
        num_zeros += len(piece)
    if not num_zeros:
        raise tarfile.ReadError("its end is missing")


def _write_plain_file(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Write a member's content, if it is a plain file with a plain path.

    By ourselves: the filters of :mod:`tarfile` came with Python 3.11.4.

    Raises:
        tarfile.TarError: it is anything else.
    """
    if not member.isreg() or member.issparse() or ".." in member.name.split("/"):
        raise tarfile.ExtractError(f"{member.name!r} is no plain file with a plain path")
    content = archive.extractfile(member)
    assert content is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    with content, path.open("wb") as file:
        shutil.copyfileobj(content, file)
