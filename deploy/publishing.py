"""Exported folders published on an object store: whole or not at all.

``manifest.json`` is written after all other files of its folder, and the pointer after that: who
finds a manifest finds everything it tells of.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from deploy.export_folder import FORMATS, file_names
from deploy.manifest import MANIFEST_FILE, Manifest, ManifestError, verify_folder
from deploy.object_store import ObjectStore
from deploy.published import POINTER_FILE, Place, differing, look, patient

_LEFTOVERS = file_names(FORMATS, int8=True)
"""What a publication that broke off may have left behind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A version on the store.

    Attributes:
        uri: of its folder.
        manifest: as it lies there.
        uploaded: names of the files that were written, the manifest's included; none if it was
            there already.
        moved: whether the pointer was moved.
    """

    uri: str
    manifest: Manifest
    uploaded: tuple[str, ...]
    moved: bool


def find_published(
    store: ObjectStore, model: str, version: int, content_hash: str, key: str | None
) -> Manifest | None:
    """Return the manifest of a version on the store, if it is there, whole and signed as asked.

    Raises:
        ManifestError: what is there must not be written over, see :func:`publish_folder`.
        DataError: the store cannot be used.
    """
    there = look(store, f"{model}/{version}-{content_hash[:12]}/")
    _check_readable(there)
    manifest = there.manifest
    if manifest is None or manifest.content_hash != content_hash or not there.is_whole:
        return None
    _check_strangers(there, manifest.names, again=False)
    return manifest if _is_signed(manifest, key) else None


def publish_folder(
    folder: Path, store: ObjectStore, key: str | None = None, *, again: bool = False
) -> Published:
    """Upload an exported folder, unless it is there, and move the pointer to it.

    Objects that are missing or cut short are uploaded; where nothing but the signature differs,
    the manifest alone is written.

    Args:
        folder: verified first.
        store: see :func:`deploy.published.open_models`.
        key: to sign the manifest with; ``None``: not signed.
        again: upload it even if it is there, over damaged or other files; what an earlier
            publication has left goes.

    Raises:
        ManifestError: the folder's files are not those of its manifest; the store holds the same
            version with other files or a manifest that cannot be read, and not ``again``; or it
            holds objects there that are not ours to delete.
        DataError: the store cannot be used.
    """
    manifest = verify_folder(folder)
    path = f"{manifest.model}/{manifest.folder}/"
    there = look(store, path)
    if not again:
        _check_same(there, manifest)
    listed = there.manifest.names if there.manifest else frozenset()
    _check_strangers(there, manifest.names | listed, again=again)
    result = manifest if key is None else manifest.signed(key)
    uploaded: tuple[str, ...] = ()
    if again or there.manifest is None or not there.is_whole:
        uploaded = _upload(folder, store, path, result, there, manifest.names)
    elif _is_signed(there.manifest, key):
        result = there.manifest
    else:
        cards = {*manifest.files} - {*there.manifest.files}
        uploaded = _upload(folder, store, path, result, there, {file.name for file in cards})
    return Published(
        uri=f"{store.uri}/{path.rstrip('/')}",
        manifest=result,
        uploaded=uploaded,
        moved=move_pointer(store, result),
    )


def _is_signed(manifest: Manifest, key: str | None) -> bool:
    """Whether a manifest is signed by a key; without one, signatures are not looked at."""
    try:
        if key is not None:
            manifest.check_signature(key, "")
    except ManifestError:
        return False
    return True


def _check_readable(there: Place) -> None:
    """Refuse to write over a manifest that cannot be read: nobody knows what it stands for."""
    if there.fault is not None:
        raise ManifestError(
            f"{there.fault.partition(';')[0]}; add --again to write over what is there"
        )


def _check_same(there: Place, manifest: Manifest) -> None:
    """Refuse to write over a version with other files."""
    _check_readable(there)
    if there.manifest is not None and (names := differing(there.manifest, manifest)):
        raise ManifestError(
            f"{there.address} holds this version with other files ({', '.join(names)}); "
            "publish it below another prefix, or add --again to write over them"
        )


def _check_strangers(there: Place, ours: Collection[str], *, again: bool) -> None:
    """Refuse a folder with objects that no manifest tells of: it could not be fetched.

    They are not ours to delete, save, if so told, what an earlier publication may have left.
    """
    for name in sorted(set(there.sizes) - set(ours)):
        if name not in _LEFTOVERS:
            raise ManifestError(
                f"{there.address} also holds {name!r}, which is no file of this model; move it "
                "elsewhere, and publish again"
            )
        if not again:
            raise ManifestError(
                f"{there.address} also holds {name!r}, which an earlier publication seems to have "
                "left; add --again to have it deleted"
            )


def move_pointer(store: ObjectStore, manifest: Manifest) -> bool:
    """Let ``latest.json`` name a version; returns whether it named another one before.

    Raises:
        DataError: the store cannot be used.
    """
    path = f"{manifest.model}/{POINTER_FILE}"
    content = (json.dumps({"folder": manifest.folder}) + "\n").encode()
    before = patient(lambda: store.read(path))
    if before is not None and before.content == content:
        return False
    patient(lambda: store.write(path, content))
    return True


def _upload(
    folder: Path,
    store: ObjectStore,
    path: str,
    manifest: Manifest,
    there: Place,
    names: Collection[str],
) -> tuple[str, ...]:
    """Write files and then the manifest, and what it does not tell of goes."""
    gone = set(there.sizes) - manifest.names
    if names or gone:  # else the manifest of before stays until the new one takes its place
        patient(lambda: store.delete(path + MANIFEST_FILE))
    for name in sorted(gone):
        patient(lambda name=name: store.delete(path + name))  # type: ignore[misc]
    for name in sorted(names):
        patient(lambda name=name: store.upload(path + name, folder / name))  # type: ignore[misc]
    patient(lambda: store.write(path + MANIFEST_FILE, manifest.to_bytes()))
    return (*sorted(names), MANIFEST_FILE)
