"""Publishing to, and fetching from, a real endpoint that can be disturbed."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from exported import fake_export
from object_stores import files_in

import deploy.object_store
import deploy.published
from deploy.manifest import ManifestError, verify_folder, write_manifest
from deploy.model_fetching import fetch_folder
from deploy.published import open_models
from deploy.publishing import find_published, publish_folder
from pas_trainer import DataError


@pytest.fixture
def folder(tmp_path):
    fake_export(tmp_path / "export")
    return tmp_path / "export"


@pytest.fixture
def store(models_store, monkeypatch):
    """As it is; one that is away is not waited for."""
    monkeypatch.setattr(deploy.published, "PATIENCE_S", 0.0)
    return models_store


def written(object_store) -> list[str]:
    """Names of what was written since the last call, in order."""
    names = [path.rpartition("/")[2] for path in object_store.written]
    object_store.written.clear()
    return names


def place_of(folder) -> str:
    manifest = verify_folder(folder)
    return f"{manifest.model}/{manifest.folder}"


def test_what_is_published_is_fetched_as_it_was(object_store, store, folder, tmp_path) -> None:
    published = publish_folder(folder, store)
    assert published.uri == f"{store.uri}/{place_of(folder)}"
    manifest = fetch_folder(store, tmp_path / "got")
    assert files_in(tmp_path / "got") == files_in(folder)
    assert manifest == verify_folder(folder)
    below = open_models(f"{store.uri}/digits/")
    fetch_folder(below, tmp_path / "below", version=3)
    assert files_in(tmp_path / "below") == files_in(folder)


def test_the_manifest_is_written_after_all_files_and_the_pointer_last(
    object_store, store, folder
) -> None:
    publish_folder(folder, store)
    names = written(object_store)
    # The first of them is the deletion of a manifest that may be there.
    assert names[0] == names[-2] == "manifest.json"
    assert sorted(names[1:-2]) == ["a.bin", "architecture.json", "weights.safetensors"]
    assert names[-1] == "latest.json"


def test_publishing_again_writes_nothing(object_store, store, folder) -> None:
    first = publish_folder(folder, store)
    assert first.moved
    assert set(first.uploaded) == {path.name for path in folder.iterdir()}
    written(object_store)
    again = publish_folder(folder, store)
    assert written(object_store) == []
    assert (again.uploaded, again.moved, again.uri) == ((), False, first.uri)


def test_the_pointer_names_what_was_published_last(object_store, store, folder, tmp_path) -> None:
    newer = tmp_path / "newer"
    fake_export(newer, version=12, weights__safetensors=b"other")
    publish_folder(newer, store)
    publish_folder(folder, store)
    assert fetch_folder(store, tmp_path / "a").version == 3
    written(object_store)
    assert publish_folder(newer, store).moved  # back again: the pointer alone
    assert written(object_store) == ["latest.json"]
    assert fetch_folder(store, tmp_path / "b").version == 12
    assert fetch_folder(store, tmp_path / "c", version=3).version == 3
    with pytest.raises(DataError, match="no version 4; there are: 3, 12"):
        fetch_folder(store, tmp_path / "d", version=4)


def altered(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("harm", [altered, lambda c: c[:-1], lambda c: c + b"\0"])
@pytest.mark.parametrize("name", ["a.bin", "weights.safetensors"])
def test_a_file_that_was_tampered_with_is_refused(
    object_store, store, folder, tmp_path, harm, name
) -> None:
    publish_folder(folder, store)
    path = f"{place_of(folder)}/{name}"
    object_store.put(store.uri, path, harm((folder / name).read_bytes()))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ManifestError, match=rf"{store.uri}/{path} .*; publish .* again"):
        fetch_folder(store, tmp_path / "got")
    assert sorted(tmp_path.iterdir()) == before
    publish_folder(folder, store, again=True)
    fetch_folder(store, tmp_path / "got")


def test_a_file_cut_short_on_its_way_is_refused(object_store, store, folder, tmp_path) -> None:
    publish_folder(folder, store)
    object_store.checksums = False
    object_store.disturb = lambda path, content: content[:-1] if "a.bin" in path else content
    with pytest.raises(DataError, match=r"a\.bin"):
        fetch_folder(store, tmp_path / "got")
    assert not (tmp_path / "got").exists()


@pytest.mark.parametrize("extra", ["more.bin", "sub/more.bin"])
def test_a_file_too_many_is_refused(object_store, store, folder, tmp_path, extra) -> None:
    publish_folder(folder, store)
    object_store.put(store.uri, f"{place_of(folder)}/{extra}", b"")
    with pytest.raises(ManifestError, match=f"also holds '{extra}'"):
        fetch_folder(store, tmp_path / "got")


def test_a_file_too_few_is_refused_and_publishing_again_mends_it(
    object_store, store, folder, tmp_path
) -> None:
    publish_folder(folder, store)
    store.delete(f"{place_of(folder)}/a.bin")
    with pytest.raises(ManifestError, match=r"lacks 'a\.bin'"):
        fetch_folder(store, tmp_path / "got")
    assert publish_folder(folder, store).uploaded
    fetch_folder(store, tmp_path / "got")


@pytest.mark.parametrize("name", ["../../outside", "/outside", "sub/outside", ".."])
def test_a_name_that_leads_out_of_the_folder_is_refused(
    object_store, store, folder, tmp_path, name
) -> None:
    publish_folder(folder, store)
    document = json.loads((folder / "manifest.json").read_text())
    document["files"][0]["name"] = name
    path = f"{place_of(folder)}/manifest.json"
    object_store.put(store.uri, path, json.dumps(document).encode())
    with pytest.raises(ManifestError, match="not the plain name of a file"):
        fetch_folder(store, tmp_path / "got")
    assert not list(tmp_path.parent.rglob("outside"))


@pytest.mark.parametrize("name", ["../other", "3-zzz", "", 3, None])
def test_a_pointer_that_leads_elsewhere_is_refused(
    object_store, store, folder, tmp_path, name
) -> None:
    publish_folder(folder, store)
    content = json.dumps({"folder": name}).encode()
    object_store.put(store.uri, "digits/latest.json", content)
    with pytest.raises(ManifestError, match="does not name a version"):
        fetch_folder(store, tmp_path / "got")


@pytest.mark.parametrize("upto", ["a.bin", "weights.safetensors", "manifest.json"])
def test_a_publishing_that_broke_off_cannot_be_fetched_and_is_finished_later(
    object_store, store, folder, tmp_path, monkeypatch, upto
) -> None:
    def refuse(path: str) -> None:
        if path.endswith(f"/{upto}"):
            raise KeyboardInterrupt

    for name in ("upload", "write"):
        real = getattr(type(store), name)

        def interrupted(self, path, content, real=real):
            refuse(path)
            real(self, path, content)

        monkeypatch.setattr(type(store), name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish_folder(folder, store)
    monkeypatch.undo()
    with pytest.raises(DataError, match="publish"):
        fetch_folder(store, tmp_path / "got")
    with pytest.raises(DataError, match="publish"):
        fetch_folder(store, tmp_path / "got", version=3)
    assert not (tmp_path / "got").exists()
    publish_folder(folder, store)
    fetch_folder(store, tmp_path / "got")


def test_an_altered_folder_is_not_published(object_store, store, folder) -> None:
    (folder / "a.bin").write_bytes(b"else")
    with pytest.raises(ManifestError, match=r"a\.bin"):
        publish_folder(folder, store)
    assert written(object_store) == []


def test_a_folder_above_the_models_is_told(store, folder, tmp_path) -> None:
    publish_folder(folder, store)
    uri, _, name = store.uri.rpartition("/")
    above = open_models(uri)
    with pytest.raises(DataError, match=f"{name}/ holds no versions of a model"):
        fetch_folder(above, tmp_path / "got")


def test_a_manifest_moved_from_another_version_is_refused(
    object_store, store, folder, tmp_path
) -> None:
    publish_folder(folder, store)
    place = place_of(folder)
    forged = place.replace("/3-", "/4-")
    for name, content in files_in(folder).items():
        object_store.put(store.uri, f"{forged}/{name}", content)
    with pytest.raises(ManifestError, match="is that of digits/3-"):
        fetch_folder(store, tmp_path / "got", version=4)


def test_a_key_asks_for_its_signature(object_store, store, folder, tmp_path) -> None:
    publish_folder(folder, store)
    with pytest.raises(ManifestError, match="is not signed"):
        fetch_folder(store, tmp_path / "got", key="one")
    assert publish_folder(folder, store, "one").uploaded == ("manifest.json",)
    assert fetch_folder(store, tmp_path / "one", key="one").signature
    with pytest.raises(ManifestError, match="not that of PAS_SIGNING_KEY"):
        fetch_folder(store, tmp_path / "two", key="two")
    assert not (tmp_path / "two").exists()
    fetch_folder(store, tmp_path / "three")  # without a key signatures are not looked at
    assert publish_folder(folder, store, "one").uploaded == ()


def test_a_forger_without_the_key_is_refused(object_store, store, folder, tmp_path) -> None:
    publish_folder(folder, store, "one")
    place = place_of(folder)
    signature = json.loads(object_store.objects(store.uri)[f"{place}/manifest.json"])["signature"]
    fake_export(tmp_path / "forged", a__bin=b"evil")
    document = json.loads((tmp_path / "forged" / "manifest.json").read_text())
    document["signature"] = signature
    object_store.put(store.uri, f"{place}/a.bin", b"evil")
    object_store.put(store.uri, f"{place}/manifest.json", json.dumps(document).encode())
    with pytest.raises(ManifestError, match="not that of PAS_SIGNING_KEY"):
        fetch_folder(store, tmp_path / "got", key="one")


def test_fetching_again_changes_nothing_and_other_folders_are_refused(
    object_store, store, folder, tmp_path
) -> None:
    publish_folder(folder, store)
    fetch_folder(store, tmp_path / "got")
    object_store.fetched.clear()
    fetch_folder(store, tmp_path / "got")
    assert not [path for path in object_store.fetched if path.endswith("a.bin")]
    (tmp_path / "got" / "a.bin").write_bytes(b"else")
    with pytest.raises(ManifestError, match=r"a\.bin"):
        fetch_folder(store, tmp_path / "got")
    shutil.rmtree(tmp_path / "got")
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / "mine").write_text("")
    with pytest.raises(ManifestError, match="not empty"):
        fetch_folder(store, tmp_path / "got")


def test_a_large_file_goes_in_parts(object_store, store, folder, tmp_path, monkeypatch) -> None:
    parts = deploy.object_store.TransferConfig(multipart_threshold=5 * 2**20, max_concurrency=2)
    monkeypatch.setattr(deploy.object_store, "_PARTS", parts)
    fake_export(tmp_path / "large", weights__safetensors=bytes(range(256)) * 50_000)
    publish_folder(tmp_path / "large", store)
    assert written(object_store).count("weights.safetensors") == 2  # 12.8 MB in parts of 8 MiB
    fetch_folder(store, tmp_path / "got")
    assert files_in(tmp_path / "got") == files_in(tmp_path / "large")


def test_of_several_models_one_must_be_named(store, folder, tmp_path) -> None:
    with pytest.raises(DataError, match="there is no model below"):
        fetch_folder(store, tmp_path / "got")
    manifest = publish_folder(folder, store).manifest
    other = dataclasses.replace(manifest, model="more digits")
    write_manifest(folder, other)
    publish_folder(folder, store)
    with pytest.raises(DataError, match="several models"):
        fetch_folder(store, tmp_path / "got")
    assert fetch_folder(open_models(f"{store.uri}/more digits"), tmp_path / "got") == other


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://no-such-bucket/models", "no bucket no-such-bucket"),
        ("http://host/models", "write s3://bucket/prefix"),
        ("s3://", "write s3://bucket/prefix"),
        ("s3://bucket/../other", "write s3://bucket/prefix"),
        ("s3://key:secret@bucket/models", "must not hold credentials"),
    ],
)
def test_an_address_that_is_none_is_told(object_store, folder, tmp_path, address, words) -> None:
    for use in (
        lambda: publish_folder(folder, open_models(address)),
        lambda: fetch_folder(open_models(address), tmp_path / "got"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            use()
        assert "secret" not in str(caught.value)


def test_refused_credentials_are_told(object_store, store, folder, tmp_path) -> None:
    object_store.check_credentials(True)
    try:
        with pytest.raises(DataError, match="refuses the credentials"):
            publish_folder(folder, store)
        with pytest.raises(DataError, match="refuses the credentials"):
            fetch_folder(store, tmp_path / "got")
    finally:
        object_store.check_credentials(False)


def test_a_busy_store_is_asked_again(object_store, store, folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(deploy.published, "PATIENCE_S", 60.0)
    object_store.checksums = False
    cut = []

    def once(path: str, content: bytes) -> bytes:
        if path.endswith("a.bin") and not cut:
            cut.append(path)
            return content[:-1]
        return content

    publish_folder(folder, store)
    object_store.disturb = once
    fetch_folder(store, tmp_path / "got")
    assert len(cut) == 1


def test_what_is_published_is_found_only_whole(store, folder) -> None:
    manifest = verify_folder(folder)
    identity = (manifest.model, manifest.version, manifest.content_hash)
    assert find_published(store, *identity, None) is None
    publish_folder(folder, store)
    assert find_published(store, *identity, None) == manifest
    assert find_published(store, *identity, "key") is None
    store.delete(f"{place_of(folder)}/a.bin")
    assert find_published(store, *identity, None) is None
