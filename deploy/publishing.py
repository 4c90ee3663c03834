"""Exported folders on an object store: published whole or not at all, fetched and verified.

Below the address lie, per model, one folder per version and a pointer to the last published one::

    NAME/VERSION-HASH/{architecture.json, ..., manifest.json}
    NAME/latest.json

``manifest.json`` is written after all other files of its folder, and the pointer after that: who
finds a manifest finds everything it tells of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.export_folder import check_free, draft_of
from deploy.manifest import (
    MANIFEST_FILE,
    Manifest,
    ManifestError,
    check_names,
    parse_manifest,
    verify_folder,
    write_manifest,
)
from deploy.model_card import CARD_FILE
from deploy.object_reader import BadReadError, RemoteObject
from deploy.object_store import ObjectStore
from deploy.store_errors import StoreUse
from deploy.stored_files import download, patiently
from pas_trainer import DataError

POINTER_FILE = "latest.json"
PATIENCE_S = 120.0
"""For so long a store that is away, or breaks off, is tried again."""

MODELS = StoreUse(
    "the address",
    "use",
    "used",
    "s3:ListBucket on the bucket and s3:GetObject (to publish also s3:PutObject and "
    "s3:DeleteObject) on its objects",
)

_ADDRESS = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]{2,254}(/[^/\x00-\x1f]+)*/?")
_FOLDER = re.compile(r"[1-9][0-9]{0,17}-[0-9a-f]{12}")
_CONNECTIONS = 10


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


def open_models(uri: str) -> ObjectStore:
    """Open the store at an address.

    Raises:
        DataError: it is no address, or the surroundings are not what boto3 needs.
    """
    if "@" in uri.removeprefix("s3://").split("/")[0]:
        raise DataError(
            "the address must not hold credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if not _ADDRESS.fullmatch(uri) or "." in uri.split("/") or ".." in uri.split("/"):
        raise DataError(f"the address is {uri!r}; write s3://bucket/prefix")
    return ObjectStore(uri.rstrip("/"), _CONNECTIONS, MODELS)


def find_published(
    store: ObjectStore, model: str, version: int, content_hash: str, key: str | None
) -> Manifest | None:
    """Return the manifest of a version on the store, if it is there, whole and signed as asked."""
    place = f"{model}/{version}-{content_hash[:12]}/"
    small = store.read(place + MANIFEST_FILE)  # a store that does not answer at all is no use
    if small is None:
        return None
    try:
        manifest = parse_manifest(small.content, f"{store.uri}/{place}{MANIFEST_FILE}")
        _check_identity(manifest, place, store.uri)
        if key is not None:
            manifest.check_signature(key, place)
        _items(store, place, manifest)
    except ManifestError:
        return None
    return manifest if manifest.content_hash == content_hash else None


def publish_folder(
    folder: Path, store: ObjectStore, key: str | None = None, *, again: bool = False
) -> Published:
    """Upload an exported folder, unless it is there, and move the pointer to it.

    Args:
        folder: verified first.
        store: see :func:`open_models`.
        key: to sign the manifest with; ``None``: not signed.
        again: upload it even if it is there: over files that are damaged.

    Raises:
        ManifestError: the folder's files are not those of its manifest, or the store holds the
            same version with other files.
        DataError: the store cannot be used.
    """
    manifest = verify_folder(folder)
    place = f"{manifest.model}/{manifest.folder}/"
    identity = (manifest.model, manifest.version, manifest.content_hash)
    there = None if again else find_published(store, *identity, key)
    uploaded: tuple[str, ...] = ()
    if there is None:
        there = manifest if key is None else manifest.signed(key)
        uploaded = _upload(folder, store, place, there)
    elif differing := _differing(there, manifest):
        raise ManifestError(
            f"{store.uri}/{place} holds this version with other files ({', '.join(differing)}); "
            "publish it below another prefix"
        )
    return Published(
        uri=f"{store.uri}/{place.rstrip('/')}",
        manifest=there,
        uploaded=uploaded,
        moved=move_pointer(store, there),
    )


def _differing(there: Manifest, here: Manifest) -> list[str]:
    """Return the files that only one of two manifests names, or with other content.

    Model cards may differ: they tell what was measured when they were written.
    """
    old, new = ({f.name: f.sha256 for f in manifest.files} for manifest in (there, here))
    names = {*old, *new} - {CARD_FILE}
    differing = sorted(name for name in names if old.get(name) != new.get(name))
    return differing if there.resize == here.resize else [*differing, MANIFEST_FILE]


def move_pointer(store: ObjectStore, manifest: Manifest) -> bool:
    """Let ``latest.json`` name a version; returns whether it named another one before.

    Raises:
        DataError: the store cannot be used.
    """
    path = f"{manifest.model}/{POINTER_FILE}"
    content = (json.dumps({"folder": manifest.folder}) + "\n").encode()
    before = patiently(lambda: store.read(path), limit_s=PATIENCE_S)
    if before is not None and before.content == content:
        return False
    patiently(lambda: store.write(path, content), limit_s=PATIENCE_S)
    return True


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
    small = patiently(lambda: store.read(place + MANIFEST_FILE), limit_s=PATIENCE_S)
    if small is None:
        raise DataError(f"there is no {address}: publishing has not ended; publish it again")
    manifest = parse_manifest(small.content, address)
    _check_identity(manifest, place, store.uri)
    if key is not None:
        manifest.check_signature(key, address)
    if (out / MANIFEST_FILE).is_file() and verify_folder(out) == manifest:
        return manifest
    check_free(out)
    items = _items(store, place, manifest)
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


def _upload(folder: Path, store: ObjectStore, place: str, manifest: Manifest) -> tuple[str, ...]:
    """Write all files and then the manifest; what an earlier attempt has left behind goes."""

    def patient(call: Callable[[], None]) -> None:
        patiently(call, limit_s=PATIENCE_S)

    patient(lambda: store.delete(place + MANIFEST_FILE))
    left = patiently(lambda: store.objects(place), limit_s=PATIENCE_S)
    for item in left:
        if item.path.removeprefix(place) not in manifest.names:
            patient(lambda path=item.path: store.delete(path))  # type: ignore[misc]
    for file in manifest.files:
        patient(lambda name=file.name: store.upload(place + name, folder / name))  # type: ignore[misc]
    patient(lambda: store.write(place + MANIFEST_FILE, manifest.to_bytes()))
    return (*(file.name for file in manifest.files), MANIFEST_FILE)


def _download(store: ObjectStore, item: RemoteObject, target: Path) -> None:
    try:
        patiently(lambda: download(store, item, target), limit_s=PATIENCE_S)
    except BadReadError as error:
        raise DataError(f"{store.name(item)} cannot be read: {error}; try again") from None


def _items(store: ObjectStore, place: str, manifest: Manifest) -> list[RemoteObject]:
    """Return the objects of a version, which must be those of its manifest, in names and sizes.

    Raises:
        ManifestError: they are not.
    """
    where = f"{store.uri}/{place}"
    listed = patiently(lambda: store.objects(place), limit_s=PATIENCE_S)
    items = {item.path.removeprefix(place): item for item in listed}
    check_names(set(items) - {MANIFEST_FILE}, manifest, where)
    for file in manifest.files:
        if items[file.name].size != file.size:
            raise ManifestError(
                f"{where}{file.name} has {items[file.name].size} bytes instead of the {file.size} "
                "of its manifest; publish the model again"
            )
    return [items[file.name] for file in manifest.files]


def _check_identity(manifest: Manifest, place: str, uri: str) -> None:
    """Refuse a manifest that was moved here from another version or model.

    A store that was opened at a model's folder tells the model's name in its address.
    """
    folder = place.rstrip("/").rpartition("/")[2]
    model = f"{uri}/{place}".rstrip("/").split("/")[-2]
    if (manifest.model, manifest.folder) != (model, folder):
        raise ManifestError(
            f"the manifest of {uri}/{place} is that of {manifest.model}/{manifest.folder}; "
            "publish the model again"
        )


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
    small = patiently(lambda: store.read(path), limit_s=PATIENCE_S)
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
    folders = patiently(lambda: store.folders(model), limit_s=PATIENCE_S)
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
