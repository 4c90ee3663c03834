"""What an exported folder holds: name, size and SHA-256 of every file, checked before it is used.

A manifest tells accidents: a file that is missing, cut short, altered or too many. Somebody who can
write to the folder can write the manifest too; against that it may carry a signature, an
HMAC-SHA256 over its canonical JSON with a key that only publisher and readers have.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from deploy.package import ARCHITECTURE_FILE, WEIGHTS_FILE

MANIFEST_FILE = "manifest.json"
SCHEMA = 1
"""Version of the layout; raised when old manifests can no longer be read."""

Preparation = Literal["whole", "centre", "longer", "stretched"]
"""How images are prepared: as :data:`pas_trainer.Resize` says; of detectors, ``longer``: the longer
side is brought to the image size, and all of the image kept; of generators, ``stretched``: both
sides are brought to it, bicubically."""

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
MODEL_NAME = re.compile(r"[^\x00-\x1f\x7f/\\:.][^\x00-\x1f\x7f/\\:]{0,199}")
"""What a model may be called so that it can be exported and published."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_RESIZES = get_args(Preparation)


class ManifestError(ValueError):
    """A manifest cannot be read, or the files are not those that it tells of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestFile:
    """One file: its plain name, size in bytes and SHA-256 (hexadecimal)."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """All files of a folder but the manifest itself, and which model they are.

    Attributes:
        model: name in the registry.
        version: there.
        content_hash: :func:`deploy.content_hash` of architecture and weights.
        resize: how images are prepared for it.
        files: in the order of their names.
        signature: HMAC-SHA256 (hexadecimal), or ``None``.
        schema: :data:`SCHEMA`.
    """

    model: str
    version: int
    content_hash: str
    resize: Preparation
    files: tuple[ManifestFile, ...]
    signature: str | None = None
    schema: int = SCHEMA

    @property
    def folder(self) -> str:
        """Name of the folder that this version is published under."""
        return f"{self.version}-{self.content_hash[:12]}"

    @property
    def names(self) -> frozenset[str]:
        """Names of the files."""
        return frozenset(file.name for file in self.files)

    def to_bytes(self) -> bytes:
        """Return the document stored as ``manifest.json``."""
        return (json.dumps(asdict(self), indent=1) + "\n").encode()

    def signed(self, key: str) -> Manifest:
        """Return the same manifest with its signature by a key."""
        return replace(self, signature=self._digest(key))

    def check_signature(self, key: str, where: str) -> None:
        """Check that whoever wrote the manifest has the key.

        Raises:
            ManifestError: it has no signature, or that of another key or content.
        """
        if self.signature is None:
            raise ManifestError(
                f"{where} is not signed, and PAS_SIGNING_KEY asks for a signature; publish it "
                "again with the key set"
            )
        if not hmac.compare_digest(self.signature, self._digest(key)):
            raise ManifestError(
                f"the signature of {where} is not that of PAS_SIGNING_KEY: it was written with "
                "another key, or altered; do not use it"
            )

    def _digest(self, key: str) -> str:
        plain = {name: value for name, value in asdict(self).items() if name != "signature"}
        canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
        return hmac.new(key.encode(), canonical.encode(), hashlib.sha256).hexdigest()


def describe_folder(
    folder: Path, *, model: str, version: int, content_hash: str, resize: Preparation
) -> Manifest:
    """Return the manifest of a folder's files as they are; nothing is written.

    Raises:
        ManifestError: a name is not allowed, or something there is no plain file.
    """
    names = sorted(_plain_files(folder) - {MANIFEST_FILE})
    manifest = Manifest(
        model=model,
        version=version,
        content_hash=content_hash,
        resize=resize,
        files=tuple(_described(folder / name) for name in names),
    )
    return parse_manifest(manifest.to_bytes(), str(folder / MANIFEST_FILE))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` in one step."""
    draft = folder / f".{MANIFEST_FILE}.tmp"
    draft.write_bytes(manifest.to_bytes())
    draft.replace(folder / MANIFEST_FILE)


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Read a manifest and check it in itself.

    Args:
        content: the document.
        where: its address, for errors.

    Raises:
        ManifestError: it is no manifest of this schema, or a file's name leads elsewhere.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise ManifestError(f"{where} is not JSON; export or publish the model again") from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise ManifestError(
            f"{where} has the schema {schema!r}, this version reads {SCHEMA}; "
            "use the version that wrote it"
        )
    try:
        files = tuple(ManifestFile(**file) for file in document["files"])
        manifest = Manifest(**{**document, "files": files})
        _check_values(manifest)
    except (TypeError, KeyError, ValueError) as error:
        raise ManifestError(f"{where} is not a manifest: {error}") from None
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest; its files are not looked at.

    Raises:
        ManifestError: there is none, or it cannot be used.
    """
    path = folder / MANIFEST_FILE
    if path.is_symlink():
        raise ManifestError(f"{path} is a link, not a file; do not use this folder")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ManifestError(
            f"{path} cannot be read ({error.strerror}); name a folder that pas export or "
            "pas fetch has written"
        ) from None
    return parse_manifest(content, str(path))


def verify_folder(folder: Path) -> Manifest:
    """Return a folder's manifest if its files are exactly those that it tells of.

    Raises:
        ManifestError: a file is missing, too many, altered or a link; names it.
    """
    manifest = read_manifest(folder)
    found = _plain_files(folder) - {MANIFEST_FILE}
    check_names(found, manifest, str(folder))
    for file in manifest.files:
        path = folder / file.name
        if path.stat().st_size != file.size or _described(path).sha256 != file.sha256:
            raise ManifestError(
                f"{path} is not the file of {MANIFEST_FILE} (size or SHA-256 differ); "
                "export or fetch the model again"
            )
    return manifest


def check_names(found: set[str], manifest: Manifest, where: str) -> None:
    """Check that there are the files of a manifest, no fewer and no more.

    Raises:
        ManifestError: naming the first that is missing or too many.
    """
    for odd, words in ((manifest.names - found, "lacks"), (found - manifest.names, "also holds")):
        if odd:
            raise ManifestError(
                f"{where} {words} {min(odd)!r}, which differs from its {MANIFEST_FILE}; "
                "export or publish the model again"
            )


def _plain_files(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            kinds = {entry.name: entry.is_file(follow_symlinks=False) for entry in entries}
    except OSError as error:
        raise ManifestError(f"folder {folder} cannot be read: {error.strerror}") from None
    for name, is_plain in sorted(kinds.items()):
        if not is_plain:
            raise ManifestError(
                f"{folder / name} is a link or a folder; an exported folder holds plain files only"
            )
    return set(kinds)


def _described(path: Path) -> ManifestFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ManifestFile(name=path.name, size=path.stat().st_size, sha256=digest)


def _check_values(manifest: Manifest) -> None:
    """Check what types alone do not, since a stranger may have written the document."""
    checks: dict[str, Any] = {
        "model": isinstance(manifest.model, str) and MODEL_NAME.fullmatch(manifest.model),
        "version": type(manifest.version) is int and manifest.version >= 1,
        "resize": manifest.resize in _RESIZES,
        "signature": manifest.signature is None or _is_digest(manifest.signature),
    }
    for field, is_right in checks.items():
        if not is_right:
            raise ValueError(f"{field} is {getattr(manifest, field)!r}")
    for file in manifest.files:
        if not (isinstance(file.name, str) and _FILE_NAME.fullmatch(file.name)):
            raise ValueError(f"{file.name!r} is not the plain name of a file")
        if not (type(file.size) is int and file.size >= 0 and _is_digest(file.sha256)):
            raise ValueError(f"size or sha256 of {file.name!r} is none")
    by_name = {file.name: file for file in manifest.files}
    if len(by_name) != len(manifest.files) or MANIFEST_FILE in by_name:
        raise ValueError("it tells of a file twice, or of itself")
    digest = hashlib.sha256()
    for name in (ARCHITECTURE_FILE, WEIGHTS_FILE):
        if name not in by_name:
            raise ValueError(f"{name} is not among its files")
        digest.update(bytes.fromhex(by_name[name].sha256))
    if digest.hexdigest() != manifest.content_hash:
        raise ValueError("content_hash is not that of its architecture and weights")


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None
