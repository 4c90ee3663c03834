"""What lies on an object store where exported folders are published: read, and compared.

Below the address lie, per model, one folder per version and a pointer to the last published one::

    NAME/VERSION-HASH/{architecture.json, ..., manifest.json}
    NAME/latest.json
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from deploy.manifest import MANIFEST_FILE, Manifest, ManifestError, check_names, parse_manifest
from deploy.model_card import CARD_FILE
from deploy.object_reader import RemoteObject
from deploy.object_store import ObjectStore
from deploy.store_errors import StoreUse
from deploy.stored_files import patiently
from pas_trainer import DataError

POINTER_FILE = "latest.json"
PATIENCE_S = 120.0
"""For so long a store that is away, or breaks off, is tried again."""

MODELS = StoreUse(
    "the address",
    "use",
    "used",
    "s3:ListBucket on the bucket and s3:GetObject (to publish also s3:PutObject, "
    "s3:DeleteObject and s3:AbortMultipartUpload) on its objects",
)

_ADDRESS = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]{2,254}(/[^/\x00-\x1f]+)*/?")
_CONNECTIONS = 10

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """What lies in the folder of one version.

    Attributes:
        address: of the folder, with a slash.
        manifest: the one there; ``None`` without one that can be used.
        fault: why the one there cannot be used; ``None`` if there is none, or it can be.
        sizes: bytes of all other objects, by name.
    """

    address: str
    manifest: Manifest | None
    fault: str | None
    sizes: Mapping[str, int]

    @property
    def is_whole(self) -> bool:
        """Whether there is every file of the manifest there, in its size."""
        return self.manifest is not None and all(
            self.sizes.get(file.name) == file.size for file in self.manifest.files
        )


def patient(call: Callable[[], T]) -> T:
    """Call until the store is there, for :data:`PATIENCE_S` at most.

    Raises:
        DataError: the store stays away, or refuses.
    """
    return patiently(call, limit_s=PATIENCE_S)


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


def look(store: ObjectStore, path: str) -> Place:
    """Return what lies in the folder of a version.

    Args:
        store: see :func:`open_models`.
        path: of the folder, with a slash.

    Raises:
        DataError: the store cannot be used.
    """
    small = store.read(path + MANIFEST_FILE)  # a store that does not answer at all is no use
    manifest = fault = None
    if small is not None:
        try:
            manifest = parse_manifest(small.content, f"{store.uri}/{path}{MANIFEST_FILE}")
            check_identity(manifest, path, store.uri)
        except ManifestError as error:
            manifest, fault = None, str(error)
    listed = patient(lambda: store.objects(path))
    sizes = {item.path.removeprefix(path): item.size for item in listed}
    sizes.pop(MANIFEST_FILE, None)
    return Place(address=f"{store.uri}/{path}", manifest=manifest, fault=fault, sizes=sizes)


def differing(there: Manifest, here: Manifest) -> list[str]:
    """Return the files that only one of two manifests names, or with other content.

    Model cards may differ: they tell what was measured when they were written.
    """
    old, new = ({f.name: f.sha256 for f in manifest.files} for manifest in (there, here))
    names = {*old, *new} - {CARD_FILE}
    differing = sorted(name for name in names if old.get(name) != new.get(name))
    return differing if there.resize == here.resize else [*differing, MANIFEST_FILE]


def items_of(store: ObjectStore, place: str, manifest: Manifest) -> list[RemoteObject]:
    """Return the objects of a version, which must be those of its manifest, in names and sizes.

    Raises:
        ManifestError: they are not.
    """
    where = f"{store.uri}/{place}"
    listed = patient(lambda: store.objects(place))
    items = {item.path.removeprefix(place): item for item in listed}
    check_names(set(items) - {MANIFEST_FILE}, manifest, where)
    for file in manifest.files:
        if items[file.name].size != file.size:
            raise ManifestError(
                f"{where}{file.name} has {items[file.name].size} bytes instead of the {file.size} "
                "of its manifest; publish the model again"
            )
    return [items[file.name] for file in manifest.files]


def check_identity(manifest: Manifest, place: str, uri: str) -> None:
    """Refuse a manifest that was moved here from another version or model.

    A store that was opened at a model's folder tells the model's name in its address.

    Raises:
        ManifestError: it is another's.
    """
    folder = place.rstrip("/").rpartition("/")[2]
    model = f"{uri}/{place}".rstrip("/").split("/")[-2]
    if (manifest.model, manifest.folder) != (model, folder):
        raise ManifestError(
            f"the manifest of {uri}/{place} is that of {manifest.model}/{manifest.folder}; "
            "publish the model again"
        )
