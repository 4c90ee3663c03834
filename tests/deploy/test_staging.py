from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from object_stores import files_in, image_folder, png, tar
from warm_python import warm_python

from deploy.staging import StagingProgress, stage
from pas_trainer import DataError

FILES = image_folder()
STAGE = """
import sys
from pathlib import Path
from deploy.staging import stage
print(stage(sys.argv[1], Path(sys.argv[2]), progress=lambda p: print(p, flush=True)))
"""


def started(uri: str, cache: Path) -> subprocess.Popen[str]:
    """Stage in a process of its own."""
    return subprocess.Popen(
        [warm_python(), "-c", STAGE, uri, str(cache)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def test_single_objects_arrive_as_they_are(object_store, tmp_path, monkeypatch):
    # Several pages of a listing, more objects than threads, names that need quoting.
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "60")
    files = {f"train/chats è&+/{i} %.png": str(i).encode() * (i + 1) for i in range(150)}
    uri = object_store.upload(files)
    told: list[StagingProgress] = []
    folder = stage(uri, tmp_path, progress=told.append)
    assert files_in(folder) == files
    assert object_store.num_listings == 3
    assert Counter(object_store.fetched).most_common(1)[0][1] == 1
    size = sum(map(len, files.values()))
    assert told[-1] == StagingProgress(150, 150, size, size)
    assert not list(tmp_path.glob("staged/*.parts"))


def test_shards_unpack_to_the_same_layout(object_store, tmp_path):
    names = list(FILES)
    shards = {
        "shards/0.tar": tar({f"./{name}": FILES[name] for name in names[:7]}),
        "1.TAR": tar({name: FILES[name] for name in names[7:]} | {"notes.txt": b"not an image"}),
    }
    folder = stage(object_store.upload(shards), tmp_path)
    assert files_in(folder) == FILES


def test_what_is_no_image_of_a_split_is_left_where_it_is(object_store, tmp_path):
    others = {"readme.md": b"x", "train/notes.txt": b"x", "old/train/cat/0.png": png(0)}
    uri = object_store.upload({**FILES, **others})
    object_store.put(uri, "train/cat/", b"")
    object_store.put(uri.removesuffix("data") + "data-2", "train/cat/0.png", png(1))
    assert files_in(stage(uri, tmp_path)) == FILES


def test_the_folder_is_named_by_content(object_store, tmp_path):
    uri = object_store.upload(FILES)
    first = stage(uri, tmp_path)
    assert stage(object_store.upload(FILES, "elsewhere/deep/"[:-1]), tmp_path) == first
    name = next(iter(FILES))
    object_store.put(uri, name, FILES[name][::-1])  # same size
    changed = stage(uri, tmp_path)
    assert changed != first
    assert (changed / name).read_bytes() == FILES[name][::-1]
    assert (first / name).read_bytes() == FILES[name]


def test_content_that_is_here_and_expected_is_used_without_asking(object_store, tmp_path):
    uri = object_store.upload(FILES)
    version = stage(uri, tmp_path).name
    listings = object_store.num_listings
    object_store.put(uri, "train/cat/new.png", png(7))
    assert stage(uri, tmp_path, version=version).name == version
    assert object_store.num_listings == listings
    with pytest.raises(DataError, match=f"{uri}, whose objects have changed since the sweep was"):
        stage(uri, tmp_path / "other node", version=version)


def test_a_killed_staging_goes_on(object_store, tmp_path):
    shard = tar({f"train/{k}/s.png": png(k) for k in range(3)})
    files = {**{f"train/cat/{i:03}.png": png(i) for i in range(120)}, "a.tar": shard}
    uri = object_store.upload(files)
    gate = threading.Semaphore(60)  # so many objects are sent, then none

    def slowly(_path: str, content: bytes) -> bytes:
        gate.acquire(timeout=60)
        return content

    object_store.disturb = slowly
    process = started(uri, tmp_path)
    (parts,) = _when(lambda: list(tmp_path.glob("staged/*.parts")))
    folder = parts.parent / parts.name.removesuffix(".parts")
    _when(lambda: len(files_in(folder)) >= 40)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    gate.release(1000)
    whole = set(files_in(folder)) & set(files)
    assert 30 < len(whole) < 120
    assert not (parts.parent / f"{folder.name}.json").exists()

    object_store.calm()
    told: list[StagingProgress] = []
    assert stage(uri, tmp_path, progress=told.append) == folder
    again = {path.split("/data/")[1] for path in object_store.fetched}
    assert not again & whole
    assert told[-1].objects == told[-1].num_objects == 121
    assert len(files_in(folder)) == 123
    assert all((folder / name).read_bytes() == files[name] for name in whole | again - {"a.tar"})


def test_an_interrupted_staging_ends_its_threads_and_goes_on(object_store, tmp_path):
    uri = object_store.upload({f"train/cat/{i:03}.png": png(i) for i in range(150)})

    def interrupt(progress: StagingProgress) -> None:
        if progress.objects > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage(uri, tmp_path, progress=interrupt)
    assert not [t for t in threading.enumerate() if t.name.startswith("staging")]
    assert len(object_store.fetched) < 150
    (folder,) = (p for p in tmp_path.glob("staged/*") if p.is_dir() and p.suffix != ".parts")
    whole = len(files_in(folder))
    object_store.calm()
    assert len(files_in(stage(uri, tmp_path))) == 150
    assert len(object_store.fetched) == 150 - whole


def test_of_two_processes_one_fetches_and_the_other_waits(object_store, tmp_path):
    uri = object_store.upload(FILES)

    def when_both_are_there(_path: str, content: bytes) -> bytes:
        object_store.wait_until(lambda: object_store.num_listings == 2)
        time.sleep(0.2)
        return content

    object_store.disturb = when_both_are_there
    processes = [started(uri, tmp_path) for _ in range(2)]
    said = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert said[0][-1] == said[1][-1]
    assert files_in(Path(said[0][-1])) == FILES
    assert sorted(Counter(object_store.fetched).values()) == [1] * len(FILES)
    assert sum("waiting=True" in line for lines in said for line in lines) == 1


@pytest.mark.parametrize("checksums", [True, False])
def test_an_object_that_arrives_damaged_is_fetched_again(object_store, tmp_path, checksums):
    files = {**FILES, "more.tar": tar({"train/cat/more.png": png(99)})}
    uri = object_store.upload(files)
    object_store.checksums = checksums
    damaged = {"/more.tar", "/image 0.png"}

    def once(path: str, content: bytes) -> bytes:
        if object_store.fetched.count(path) == 1 and any(map(path.endswith, damaged)):
            return content[:-1] + bytes([content[-1] ^ 1])
        return content

    object_store.disturb = once
    folder = stage(uri, tmp_path)
    assert files_in(folder) == {**FILES, "train/cat/more.png": png(99)}
    assert len(object_store.fetched) == len(files) + 5


def test_a_connection_that_breaks_off_is_tried_again(object_store, tmp_path):
    def once(path: str, content: bytes) -> bytes:
        return content[: -3 if object_store.fetched.count(path) == 1 else None]

    object_store.disturb = once
    assert files_in(stage(object_store.upload(FILES), tmp_path)) == FILES


@pytest.mark.parametrize(
    ("checksums", "reason"),
    [(True, "its checksum differs from the store's"), (False, "its MD5 differs from its ETag")],
)
def test_an_object_that_stays_damaged_is_named(object_store, tmp_path, checksums, reason):
    uri = object_store.upload(FILES)
    object_store.checksums = checksums

    def always(path: str, content: bytes) -> bytes:
        return b"?" + content[1:] if path.endswith("train/dog/image 3.png") else content

    object_store.disturb = always
    with pytest.raises(DataError) as error:
        stage(uri, tmp_path)
    assert str(error.value) == (
        f"object {uri}/train/dog/image 3.png is corrupt: {reason}, 3 times; upload it again"
    )
    object_store.disturb = lambda _path, content: content
    fetched = len(object_store.fetched)
    assert files_in(stage(uri, tmp_path)) == FILES
    assert len(object_store.fetched) < fetched + len(FILES)


def test_objects_of_several_parts_have_no_md5_and_are_staged(object_store, tmp_path):
    uri = object_store.upload(FILES)
    client, bucket = object_store.client(), uri.split("/")[2]
    big = os.urandom(6 * 2**20)
    key = {"Bucket": bucket, "Key": "data/train/cat/big.png"}
    upload = client.create_multipart_upload(**key)["UploadId"]
    pieces = [big[: 5 * 2**20], big[5 * 2**20 :]]
    parts = [
        {
            "PartNumber": number,
            "ETag": client.upload_part(**key, UploadId=upload, PartNumber=number, Body=b)["ETag"],
        }
        for number, b in enumerate(pieces, 1)
    ]
    client.complete_multipart_upload(**key, UploadId=upload, MultipartUpload={"Parts": parts})
    folder = stage(uri, tmp_path)
    assert hashlib.sha256((folder / "train/cat/big.png").read_bytes()).digest() == (
        hashlib.sha256(big).digest()
    )


def test_an_object_that_changes_meanwhile_is_told(object_store, tmp_path):
    uri = object_store.upload({f"train/cat/{i:03}.png": b"old" for i in range(100)})

    replaced = threading.Event()

    def meanwhile(path: str, content: bytes) -> bytes:
        if path.endswith("000.png"):
            object_store.put(uri, "train/cat/099.png", b"new")
            replaced.set()
        assert replaced.wait(timeout=60)
        return content

    object_store.disturb = meanwhile
    with pytest.raises(DataError, match="has changed while it was being staged; run the same"):
        stage(uri, tmp_path)


def _when(found):
    """Wait until something is true, and return it."""
    end = time.monotonic() + 60
    while not (result := found()):
        assert time.monotonic() < end, "nothing happened for a minute"
        time.sleep(0.01)
    return result
