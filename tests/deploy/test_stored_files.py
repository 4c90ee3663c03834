"""Files written to, and brought from, an S3 endpoint that goes away and comes back."""

from __future__ import annotations

import contextlib

import pytest

from deploy import object_store as store_module
from deploy import stored_files
from deploy.object_reader import BadReadError
from deploy.object_store import ObjectStore
from deploy.store_errors import FILES, StoreAwayError
from deploy.stored_files import Outbox, download, patiently, share
from pas_trainer import DataError


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(store_module, "ATTEMPTS", 1)
    monkeypatch.setattr(stored_files, "BACKOFF_S", (0.01,))


@pytest.fixture
def uri(object_store):
    return object_store.upload({}, "some/prefix")


@pytest.fixture
def store(uri):
    with contextlib.closing(ObjectStore(uri, 2, FILES)) as store:
        yield store


@pytest.fixture
def outbox(store):
    with contextlib.closing(Outbox(store)) as outbox:
        yield outbox


def test_writes_are_done_in_order_as_they_were_handed_over(object_store, uri, outbox, tmp_path):
    state, bucket = tmp_path / "state", uri.split("/")[2]
    client = object_store.client()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    object_store.calm()
    object_store.away = True
    for content, name in ((b"one", "first"), (b"two", "second")):
        (tmp_path / "draft").write_bytes(content)
        (tmp_path / "draft").replace(state)
        outbox.write("state", state)
        outbox.write(name, content)
    outbox.delete("first")
    state.unlink()
    object_store.away = False
    outbox.flush()
    names = [path.rpartition("/")[2] for path in object_store.written]
    assert names == ["state", "first", "state", "second", "first"]
    assert object_store.objects(uri) == {"state": b"two", "second": b"two"}
    versions = client.list_object_versions(Bucket=bucket, Prefix="some/prefix/state")["Versions"]
    first = next(v["VersionId"] for v in versions if not v["IsLatest"])
    earlier = client.get_object(Bucket=bucket, Key="some/prefix/state", VersionId=first)
    assert earlier["Body"].read() == b"one"  # not what took its place


def test_a_state_that_waits_is_superseded_by_the_next(object_store, uri, outbox):
    object_store.away = True
    outbox.write("result", b"")
    for content in (b"1", b"2", b"3"):
        outbox.write("state", content)
    object_store.away = False
    outbox.flush()
    assert len(object_store.written) == 2
    assert object_store.objects(uri)["state"] == b"3"


def test_an_upload_that_was_too_slow_is_tried_again(object_store, uri, outbox):
    answers = [(400, "RequestTimeout")] * 2
    object_store.refuse = lambda method, *_: answers.pop() if answers and method == "PUT" else None
    outbox.write("state", b"1")
    outbox.flush(20)
    assert object_store.objects(uri) == {"state": b"1"}


def test_an_upload_in_parts_that_somebody_ended_is_tried_again(object_store, uri, store, tmp_path):
    (tmp_path / "big").write_bytes(bytes(17 * 2**20))
    refusals = [(404, "NoSuchUpload")]
    object_store.refuse = lambda method, _path, query: (
        refusals.pop() if refusals and method == "POST" and "uploadId" in query else None
    )
    with pytest.raises(StoreAwayError) as error:
        store.upload("big", tmp_path / "big")
    assert str(error.value) == (
        f"object {uri}/big could not be written to its end at {object_store.url} (NoSuchUpload); "
        "check the network, then run the same command again"
    )
    patiently(lambda: store.upload("big", tmp_path / "big"))
    assert len(object_store.objects(uri)["big"]) == 17 * 2**20


def test_what_is_refused_for_good_is_told(object_store):
    with contextlib.closing(Outbox(ObjectStore("s3://nobody/x", 1, FILES))) as outbox:
        outbox.write("a", b"")
        with pytest.raises(DataError, match=r"storage\.uri is s3://nobody/x, but there is no buck"):
            outbox.flush()
        with pytest.raises(DataError, match="no bucket nobody"):
            outbox.write("b", b"")


def test_what_nobody_foresaw_is_told_too(store, outbox, monkeypatch):
    monkeypatch.setattr(ObjectStore, "write", lambda *_: 1 // 0)
    outbox.write("a", b"")
    with pytest.raises(DataError, match=r"^a cannot be stored: ZeroDivisionError"):
        outbox.flush()


def test_what_waits_when_the_outbox_is_closed_is_given_up(object_store, uri, store):
    object_store.away = True
    outbox = Outbox(store)
    outbox.write("a", b"")
    outbox.write("b", b"")
    outbox.close()
    outbox._thread.join(10)
    assert not outbox._thread.is_alive()
    object_store.away = False
    assert object_store.objects(uri) == {}


def test_patience_ends_with_success_or_refusal():
    answers = iter([StoreAwayError("away"), StoreAwayError("away"), 7, DataError("never")])

    def call():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patiently(call) == 7
    with pytest.raises(DataError, match="never"):
        patiently(call)


def test_patience_has_a_limit_where_it_is_given_one(object_store, store):
    object_store.away = True
    with pytest.raises(StoreAwayError, match="answers 503"):
        patiently(store.objects, limit_s=0.05)


def test_files_are_brought_once_to_a_node(object_store, tmp_path):
    uri = object_store.upload({"net/a": b"weights", "net/b": b"{}", "net/c": b"no"}, "p")
    store = ObjectStore(uri, 2, FILES)
    for _ in range(2):
        folder = share(store, "net/", ["a", "b", "missing"], tmp_path / "cache")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            "a": b"weights",
            "b": b"{}",
        }
    assert len(object_store.fetched) == 2
    object_store.put(uri, "net/a", b"others")
    assert share(store, "net/", ["a", "b"], tmp_path / "cache") != folder
    with pytest.raises(DataError, match=f"below {uri}/nothing/ there is none of a; run the same"):
        share(store, "nothing/", ["a"], tmp_path / "cache")
    with pytest.raises(DataError, match=rf"{uri} needs 1 MiB on this node, but the cache .* 0 MiB"):
        share(store, "net/", ["c"], tmp_path / "tiny", 1)


def test_a_download_appears_whole_or_not_at_all(object_store, tmp_path):
    uri = object_store.upload({"a": b"whole"}, "p")
    store = ObjectStore(uri, 2, FILES)
    (item,) = store.objects()
    object_store.disturb = lambda _path, content: content[:2]
    with pytest.raises(BadReadError, match=r"broke off|checksum differs"):
        download(store, item, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    object_store.calm()
    download(store, item, tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
