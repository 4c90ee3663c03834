from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from exported import fake_export
from hypothesis import given
from hypothesis import strategies as st

from deploy.manifest import (
    MANIFEST_FILE,
    ManifestError,
    parse_manifest,
    verify_folder,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fake_export(tmp_path / "export")
    return tmp_path / "export"


def test_a_manifest_tells_of_every_file_and_is_read_back(folder: Path) -> None:
    manifest = verify_folder(folder)
    assert {f.name: (f.size, f.sha256) for f in manifest.files} == {
        path.name: (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.iterdir()
        if path.name != MANIFEST_FILE
    }
    assert parse_manifest(manifest.to_bytes(), "m") == manifest
    assert manifest.folder == f"3-{manifest.content_hash[:12]}"


def missing(folder: Path) -> None:
    (folder / "a.bin").unlink()


def extra(folder: Path) -> None:
    (folder / "more.bin").write_bytes(b"")


def hidden(folder: Path) -> None:
    (folder / ".more").write_bytes(b"")


def altered(folder: Path) -> None:
    content = bytearray((folder / "a.bin").read_bytes())
    content[50] ^= 1
    (folder / "a.bin").write_bytes(content)


def truncated(folder: Path) -> None:
    (folder / "a.bin").write_bytes((folder / "a.bin").read_bytes()[:-1])


def linked(folder: Path) -> None:
    (folder / "a.bin").rename(folder.parent / "a.bin")
    (folder / "a.bin").symlink_to(folder.parent / "a.bin")


def linked_manifest(folder: Path) -> None:
    (folder / MANIFEST_FILE).rename(folder.parent / "m")
    (folder / MANIFEST_FILE).symlink_to(folder.parent / "m")


def deeper(folder: Path) -> None:
    (folder / "sub").mkdir()


def no_manifest(folder: Path) -> None:
    (folder / MANIFEST_FILE).unlink()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (missing, r"lacks 'a\.bin'"),
        (extra, r"also holds 'more\.bin'"),
        (hidden, r"also holds '\.more'"),
        (altered, r"a\.bin is not the file"),
        (truncated, r"a\.bin is not the file"),
        (linked, r"a\.bin is a link"),
        (linked_manifest, r"manifest\.json is a link"),
        (deeper, r"sub is a link or a folder"),
        (no_manifest, r"manifest\.json cannot be read"),
    ],
)
def test_a_folder_that_is_not_as_its_manifest_tells_is_refused(folder, harm, words) -> None:
    harm(folder)
    with pytest.raises(ManifestError, match=words):
        verify_folder(folder)


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "a/b",
        "..",
        ".",
        "",
        ".hidden",
        "a\\b",
        "a\0b",
        "manifest.json",
        "x\n",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(folder: Path, name: str) -> None:
    document = json.loads((folder / MANIFEST_FILE).read_text())
    document["files"][0]["name"] = name
    with pytest.raises(ManifestError, match="is not a manifest"):
        parse_manifest(json.dumps(document).encode(), "m")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("schema", 2, "schema 2"),
        ("model", "../x", "model is"),
        ("model", 3, "model is"),
        ("version", 0, "version is 0"),
        ("version", True, "version is True"),
        ("version", "3", "version is '3'"),
        ("resize", "none", "resize is"),
        ("signature", "x", "signature is"),
        ("content_hash", "0" * 64, "content_hash is not that of"),
        ("files", [], "architecture.json is not among"),
        ("files", None, "not a manifest"),
        ("files", [{"name": "a"}], "not a manifest"),
        ("surprise", 1, "not a manifest"),
    ],
)
def test_a_field_that_is_wrong_is_refused(folder: Path, field, value, words) -> None:
    document = json.loads((folder / MANIFEST_FILE).read_text())
    document[field] = value
    with pytest.raises(ManifestError, match=words):
        parse_manifest(json.dumps(document).encode(), "m")


@given(
    st.binary(max_size=60)
    | st.dictionaries(st.text(), st.integers()).map(json.dumps).map(str.encode)
)
def test_no_bytes_break_the_reading(content: bytes) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(content, "m")


def test_a_signature_is_an_hmac_of_all_the_rest(folder: Path) -> None:
    plain = verify_folder(folder)
    signed = plain.signed("key one")
    document = json.loads(signed.to_bytes())
    signature = document.pop("signature")
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    assert signature == hmac.new(b"key one", canonical, "sha256").hexdigest()
    signed.check_signature("key one", "m")
    assert parse_manifest(signed.to_bytes(), "m") == signed
    with pytest.raises(ManifestError, match="not that of PAS_SIGNING_KEY"):
        signed.check_signature("key two", "m")
    with pytest.raises(ManifestError, match="not signed"):
        plain.check_signature("key one", "m")
    document |= {"signature": signature, "version": 4}
    moved = parse_manifest(json.dumps(document).encode(), "m")
    with pytest.raises(ManifestError, match="not that of PAS_SIGNING_KEY"):
        moved.check_signature("key one", "m")
