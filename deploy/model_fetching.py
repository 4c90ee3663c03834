"""Published versions brought to a folder, which appears verified or not at all."""

from __future__ import annotations

import json
import re
from pathlib import Path

from deploy.export_folder import check_free, draft_of
from deploy.manifest import (
    MANIFEST_FILE,
    Manifest,
    ManifestError,
    parse_manifest,
    verify_folder,
    write_manifest,
)
from deploy.object_reader import BadReadError, RemoteObject
from deploy.object_store import ObjectStore
from deploy.published import POINTER_FILE, check_identity, items_of, patient
from deploy.stored_files import download
from pas_trainer import DataError

_FOLDER = re.compile(r"[1-9][0-9]{0,17}-[0-9a-f]{12}")


def fetch_folder(
    store: ObjectStore, out: Path, *, version: int | None = None, key: str | None = None
) -> Manifest:
    """Download a published version into a folder, which appears verified or not at all.

    Args:
        store: at the address that was published to, or at a model's folder below it.
        out: must not exist, be empty, or hold the same manifest.
        version: which; ``None``: the one that was published last.
        key: that the manifest must be signed with; ``None``: signatures are not looked at.

    Raises:
        ManifestError: what is there is not what its manifest tells, or is not signed so.
        DataError: the store cannot be used, or holds no such version.
    """
    model = _model_at(store)
    place = model + (
        _pointed(store, model) if version is None else _numbered(store, model, version)
    )
    address = f"{store.uri}/{place}{MANIFEST_FILE}"
    small = patient(lambda: store.read(place + MANIFEST_FILE))
    if small is None:
        raise DataError(f"there is no {address}: publishing has not ended; publish it again")
    manifest = parse_manifest(small.content, address)
    check_identity(manifest, place, store.uri)
    if key is not None:
        manifest.check_signature(key, address)
    if (out / MANIFEST_FILE).is_file() and verify_folder(out) == manifest:
        return manifest
    check_free(out)
    items = items_of(store, place, manifest)
    with draft_of(out) as draft:
        for item in items:
            _download(store, item, draft / item.path.rpartition("/")[2])
        write_manifest(draft, manifest)
        try:
            verify_folder(draft)
        except ManifestError as error:
            reason = str(error).partition(";")[0].replace(f"{draft}/", f"{store.uri}/{place}")
            raise ManifestError(f"{reason}; publish it again (pas publish --again)") from None
    return manifest


def _download(store: ObjectStore, item: RemoteObject, target: Path) -> None:
    try:
        patient(lambda: download(store, item, target))
    except BadReadError as error:
        raise DataError(f"{store.name(item)} cannot be read: {error}; try again") from None


def _model_at(store: ObjectStore) -> str:
    """Return the path of the only model's folder, with a slash; empty if the store is opened there.

    Raises:
        DataError: there is none, or several.
    """
    folders = store.folders("")  # a store that does not answer at all is no use
    if any(_FOLDER.fullmatch(folder) for folder in folders):
        return ""
    if len(folders) == 1:
        model = f"{folders[0]}/"
        if not any(_FOLDER.fullmatch(folder) for folder in store.folders(model)):
            raise DataError(
                f"{store.uri}/{model} holds no versions of a model; correct the address"
            )
        return model
    if not folders:
        raise DataError(f"there is no model below {store.uri}; correct the address, or publish one")
    raise DataError(
        f"below {store.uri} there are several models ({', '.join(folders[:5])}); "
        f"name one: {store.uri}/{folders[0]}"
    )


def _pointed(store: ObjectStore, model: str) -> str:
    path = model + POINTER_FILE
    small = patient(lambda: store.read(path))
    if small is None:
        raise DataError(
            f"there is no {store.uri}/{path}: publishing has not ended; publish again, or name a "
            "version"
        )
    try:
        folder = json.loads(small.content)["folder"]
        if not _FOLDER.fullmatch(folder):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ManifestError(
            f"{store.uri}/{path} does not name a version; publish the model again"
        ) from None
    return f"{folder}/"


def _numbered(store: ObjectStore, model: str, version: int) -> str:
    folders = patient(lambda: store.folders(model))
    known = [folder for folder in folders if _FOLDER.fullmatch(folder)]
    found = [folder for folder in known if folder.startswith(f"{version}-")]
    if len(found) == 1:
        return f"{found[0]}/"
    if not found:
        numbers = ", ".join(sorted({folder.partition("-")[0] for folder in known}, key=int))
        raise DataError(f"below {store.uri} there is no version {version}; there are: {numbers}")
    raise DataError(
        f"below {store.uri} version {version} was published from several registries "
        f"({', '.join(found)}); publish each below a prefix of its own"
    )
