"""Where the files of a data set lie on this machine.

``root`` in a configuration says which data set it is, the same everywhere; a root on an object
store (``s3://...``) lies in another folder on every node. Whoever brings its files here says so
with :func:`set_place`, before the data set is opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pas_trainer.errors import DataError


@dataclass(frozen=True, slots=True)
class Place:
    """Files of a data set on this machine.

    Attributes:
        folder: holds ``train/`` and ``test/``.
        version: hash of the content, where it is known without reading the files; else empty.
    """

    folder: Path
    version: str = ""


_places: dict[str, Place] = {}


def is_remote(root: str | None) -> bool:
    """Whether a root is an address rather than a folder."""
    return root is not None and "://" in root


def set_place(root: str, place: Place) -> None:
    """Say where the files of a remote root lie, for this process."""
    _places[root] = place


def place_of(root: str) -> Place:
    """Return where the files of a root lie.

    Raises:
        DataError: it is remote, and nobody has brought its files here.
    """
    if not is_remote(root):
        return Place(Path(root))
    if root not in _places:
        raise DataError(
            f"data.root is {root}, whose files have not been staged in this process; "
            "start it with a pas command, or call deploy.stage and set_place first"
        )
    return _places[root]


def address_of(path: Path) -> str:
    """Return how its owner knows a file: below its remote root, if it was brought from there."""
    for root, place in reversed(_places.items()):
        if path.is_relative_to(place.folder):
            return "/".join([root.rstrip("/"), *path.relative_to(place.folder).parts])
    return str(path)
