"""Publishing where something lies already: what is left alone, added to, and written over."""

from __future__ import annotations

import dataclasses

import pytest
from exported import fake_export
from object_stores import files_in

from deploy.manifest import ManifestError, verify_folder, write_manifest
from deploy.model_fetching import fetch_folder
from deploy.published import differing
from deploy.publishing import find_published, publish_folder

FORMS = {"model__onnx": b"onnx", "model__pt2": b"pt2", "MODEL_CARD__md": b"card"}


@pytest.fixture
def store(models_store):
    return models_store


@pytest.fixture
def folder(tmp_path):
    fake_export(tmp_path / "export", **FORMS)
    return tmp_path / "export"


@pytest.fixture
def fewer(tmp_path):
    """The same version with fewer files."""
    fake_export(tmp_path / "fewer", MODEL_CARD__md=b"card")
    return tmp_path / "fewer"


def place_of(folder) -> str:
    manifest = verify_folder(folder)
    return f"{manifest.model}/{manifest.folder}"


def refused(object_store, store, folder, words, key=None, *, again=False) -> None:
    """Check that publishing is refused, and changes nothing."""
    before = object_store.objects(store.uri)
    with pytest.raises(ManifestError, match=words):
        publish_folder(folder, store, key, again=again)
    assert object_store.objects(store.uri) == before


@pytest.mark.parametrize(("before", "now"), [(None, None), (None, "k"), ("k", "j"), ("k", None)])
def test_other_files_are_refused_whatever_the_keys(
    object_store, store, folder, fewer, before, now
) -> None:
    publish_folder(folder, store, before)
    refused(object_store, store, fewer, r"with other files \(model\.onnx, model\.pt2\)", now)
    done = publish_folder(fewer, store, now, again=True)  # over them, if so told
    assert "architecture.json" in done.uploaded
    fetch_folder(store, folder.parent / "got", key=now)
    assert set(files_in(folder.parent / "got")) == set(files_in(fewer))


@pytest.mark.parametrize("before", [None, "k"])
def test_of_the_same_files_the_manifest_alone_is_signed(
    object_store, store, folder, before
) -> None:
    publish_folder(folder, store, before)
    object_store.written.clear()
    assert publish_folder(folder, store, "j").uploaded == ("manifest.json",)
    names = [path.rpartition("/")[2] for path in object_store.written]
    assert names == ["manifest.json"]
    fetch_folder(store, folder.parent / "got", key="j")


def test_a_signature_is_never_put_on_what_was_not_compared(store, folder, tmp_path) -> None:
    """Cards may differ; the one that a key vouches for is that of whoever has the key."""
    publish_folder(folder, store)
    fake_export(tmp_path / "mine", **FORMS | {"MODEL_CARD__md": b"mine"})
    done = publish_folder(tmp_path / "mine", store, "k")
    assert done.uploaded == ("MODEL_CARD.md", "manifest.json")
    fetch_folder(store, tmp_path / "got", key="k")
    assert (tmp_path / "got" / "MODEL_CARD.md").read_bytes() == b"mine"


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("name", ["NOTES.txt", "sub/model.onnx"])
def test_objects_of_others_are_never_deleted(object_store, store, folder, key, again, name) -> None:
    object_store.put(store.uri, f"{place_of(folder)}/{name}", b"by hand")
    refused(object_store, store, folder, f"also holds '{name}', which is no file", key, again=again)
    store.delete(f"{place_of(folder)}/{name}")
    publish_folder(folder, store)
    object_store.put(store.uri, f"{place_of(folder)}/{name}", b"by hand")
    refused(object_store, store, folder, f"also holds '{name}', which is no file", key, again=again)


def test_what_a_broken_publication_left_goes_if_so_told(object_store, store, fewer) -> None:
    object_store.put(store.uri, f"{place_of(fewer)}/model.onnx", b"left")
    refused(object_store, store, fewer, "seems to have left; add --again to have it deleted")
    publish_folder(fewer, store, again=True)
    fetch_folder(store, fewer.parent / "got")


@pytest.mark.parametrize("content", [b"{", b'{"schema": 2}', b'{"schema": 1}', None])
def test_a_manifest_that_cannot_be_read_is_not_taken_for_none(
    object_store, store, folder, tmp_path, content
) -> None:
    if content is None:  # another version's
        content = fake_export(tmp_path / "other", version=4).to_bytes()
    publish_folder(folder, store)
    object_store.put(store.uri, f"{place_of(folder)}/manifest.json", content)
    refused(object_store, store, folder, "add --again to write over what is there", "k")
    manifest = verify_folder(folder)
    with pytest.raises(ManifestError, match="add --again"):
        find_published(store, manifest.model, manifest.version, manifest.content_hash, None)
    publish_folder(folder, store, again=True)
    fetch_folder(store, tmp_path / "got")


def test_the_same_version_with_other_content_is_refused(store, folder) -> None:
    publish_folder(folder, store)
    manifest = verify_folder(folder)
    write_manifest(folder, dataclasses.replace(manifest, resize="centre"))
    with pytest.raises(ManifestError, match=r"with other files \(manifest\.json\)"):
        publish_folder(folder, store)
    last = dataclasses.replace(manifest.files[-1], sha256="0" * 64)
    other = dataclasses.replace(manifest, files=(*manifest.files[:-1], last))
    assert differing(manifest, other) == [last.name]
    card = dataclasses.replace(last, name="MODEL_CARD.md")
    cards = [
        dataclasses.replace(manifest, files=(dataclasses.replace(card, sha256=s * 64),))
        for s in "01"
    ]
    assert differing(*cards) == []
