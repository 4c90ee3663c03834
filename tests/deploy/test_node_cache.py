from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest
from object_stores import files_in, image_folder, tar

from deploy.node_cache import NodeCache
from deploy.staging import stage
from pas_trainer import DataError

FILES = image_folder()


def use_and_release(uri: str, cache: Path, limit: int | None = None) -> Path:
    folder = stage(uri, cache, limit_bytes=limit)
    NodeCache(cache).release(folder.name)
    return folder


def test_the_least_recently_used_is_evicted(object_store, tmp_path):
    uris = [object_store.upload(image_folder(size=60, seed=seed)) for seed in range(4)]
    a, b = (use_and_release(uri, tmp_path) for uri in uris[:2])
    for age, folder in ((100, a), (50, b)):
        marker = tmp_path / "staged" / f"{folder.name}.json"
        os.utime(marker, (time.time() - age, time.time() - age))
    use_and_release(uris[0], tmp_path)  # now b is the older one
    room = int(2.5 * NodeCache(tmp_path).size(a.name))
    c = use_and_release(uris[2], tmp_path, room)
    assert (a.exists(), b.exists(), c.exists()) == (True, False, True)
    assert not (tmp_path / "staged" / f"{b.name}.json").exists()
    assert files_in(stage(uris[1], tmp_path)) == image_folder(size=60, seed=1)


def test_what_is_in_use_is_never_evicted(object_store, tmp_path):
    first, second = (object_store.upload(image_folder(size=60, seed=seed)) for seed in (0, 1))
    used = stage(first, tmp_path)
    room = int(1.5 * NodeCache(tmp_path).size(used.name))
    with pytest.raises(DataError, match=r"data sets in use included; make room, or set PAS_CACHE"):
        stage(second, tmp_path, limit_bytes=room)
    assert files_in(used) == image_folder(size=60, seed=0)
    NodeCache(tmp_path).release(used.name)
    stage(second, tmp_path, limit_bytes=room)
    assert not used.exists()


def test_what_was_left_half_staged_is_evicted_too(object_store, tmp_path):
    left = NodeCache(tmp_path)
    for version in ("a" * 24, "b" * 24):
        left.begin(version)
        (left.folder(version) / "x.png").write_bytes(bytes(400_000))
    (left.root / f"{'b' * 24}.json").write_text('{"byt')  # by a power failure
    stage(object_store.upload(FILES), tmp_path, limit_bytes=300_000)
    here = {path.name for name in ("aaa", "bbb") for path in left.root.glob(f"{name}*")}
    assert here == {f"{'a' * 24}.lock", f"{'b' * 24}.lock"}


def test_what_is_left_of_an_eviction_that_was_killed_is_evicted_too(
    object_store, tmp_path, monkeypatch
):
    old = use_and_release(object_store.upload(FILES), tmp_path)

    def killed(*_args, **_kwargs):
        raise KeyboardInterrupt

    uri = object_store.upload(image_folder(seed=1))
    with monkeypatch.context() as patch:
        patch.setattr("deploy.node_cache.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            stage(uri, tmp_path, limit_bytes=100_000)
    assert files_in(old)
    stage(uri, tmp_path, limit_bytes=100_000)
    assert not old.exists()


def test_only_what_the_cache_has_made_is_counted_and_evicted(object_store, tmp_path):
    foreign = {
        "thesis/chapter.tex": bytes(2**20),
        "proj/a": b"x",
        "proj.json": b'{"a": 1}',
        "staged/thesis/chapter.tex": bytes(2**20),
        "staged/thesis.json": b"{}",
        f"staged/{'c' * 24}/a": bytes(2**20),
        f"{'d' * 24}/a": bytes(2**20),
        f"{'d' * 24}.json": b'{"bytes": 1048576}',
    }
    for name, content in foreign.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    first, second = (object_store.upload(image_folder(seed=seed)) for seed in range(2))
    old = use_and_release(first, tmp_path, 100_000)
    stage(second, tmp_path, limit_bytes=100_000)
    assert not old.exists()
    assert foreign.items() <= files_in(tmp_path).items()


def test_what_cannot_fit_is_refused_before_anything_is_fetched_or_evicted(
    object_store, tmp_path, monkeypatch
):
    old = use_and_release(object_store.upload(FILES), tmp_path)
    uri = object_store.upload(image_folder(size=300, seed=1))
    object_store.calm()
    with pytest.raises(DataError, match=r"needs 5 MiB on this node, but the cache .* may hold 1 M"):
        stage(uri, tmp_path, limit_bytes=2**20)
    usage = type("Usage", (), {"free": 66 * 2**20})
    monkeypatch.setattr("deploy.node_cache.shutil.disk_usage", lambda _: usage)
    with pytest.raises(DataError) as error:
        stage(uri, tmp_path)
    assert str(error.value) == (
        f"data.root needs 5 MiB on this node, but the cache {tmp_path} has 66 MiB free and must "
        "leave 64 MiB free, data sets in use included; make room, or set PAS_CACHE to a larger disk"
    )
    assert object_store.fetched == []
    assert old.exists()


def tiny_files(num: int) -> dict[str, bytes]:
    """Files that take far more room on a disk than in an archive."""
    return {f"train/{i % 2}/{i}.png": bytes(100) for i in range(num)}


def taken(cache: Path) -> int:
    total = 0
    for folder, _, names in os.walk(NodeCache(cache).root):
        for name in names:
            with suppress(FileNotFoundError):  # it is being moved
                total += (Path(folder) / name).stat().st_blocks * 512
    return total


def test_shards_that_unpack_to_more_than_the_limit_are_refused(object_store, tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.staging_room._AHEAD", 0)
    archives = {f"{i}.tar": tar(tiny_files(500)) for i in range(2)}
    uri, limit = object_store.upload(archives), 3 * 2**20
    most: list[int] = []
    with pytest.raises(DataError) as error:
        stage(uri, tmp_path, limit_bytes=limit, progress=lambda _: most.append(taken(tmp_path)))
    assert str(error.value).startswith(
        "data.root (whose shards unpack to more than their own size) needs 4 MiB on this node, "
    )
    assert "may hold 3 MiB in all (PAS_CACHE_GIB)" in str(error.value)
    assert max([*most, taken(tmp_path)]) <= 1.01 * limit  # as disks estimate it
    assert not list(NodeCache(tmp_path).root.glob("*.json"))


def test_room_is_made_for_what_shards_unpack_to(object_store, tmp_path):
    others = [object_store.upload(image_folder(size=300, seed=seed)) for seed in range(2)]
    old = [use_and_release(uri, tmp_path) for uri in others]
    shards = {"a.tar": tar(tiny_files(1500)), "b.tar": tar({"train/0/big.png": bytes(2**20)})}
    limit = int(2.8 * NodeCache(tmp_path).size(old[0].name))
    folder = use_and_release(object_store.upload(shards), tmp_path, limit)
    assert [path.exists() for path in old] == [False, True]
    sizes = [NodeCache(tmp_path).size(path.name) for path in (old[1], folder)]
    assert sum(sizes) <= limit
    # Disks say for good what a file takes only once it is written out.
    assert taken(tmp_path) == pytest.approx(sum(sizes), rel=0.01)


def test_a_shard_that_arrives_damaged_takes_its_room_once(object_store, tmp_path):
    uri = object_store.upload({"a.tar": tar(tiny_files(600))})

    def twice(path: str, content: bytes) -> bytes:
        return content[:-512] if object_store.fetched.count(path) < 3 else content

    object_store.disturb = twice
    folder = stage(uri, tmp_path, limit_bytes=3 * 2**20)
    assert len(files_in(folder)) == 600


def test_drafts_of_a_killed_staging_take_no_room(object_store, tmp_path):
    node, objects = NodeCache(tmp_path), {f"train/a/{i}.png": bytes(8000) for i in range(100)}
    uri = object_store.upload(objects)
    version = stage(uri, tmp_path / "elsewhere").name
    node.begin(version)
    (node.parts(version) / "x.draft").write_bytes(bytes(2**20))
    (node.parts(version) / "x.unpacking").mkdir()
    (node.parts(version) / "x.unpacking" / "a.png").write_bytes(bytes(2**20))
    assert files_in(stage(uri, tmp_path, limit_bytes=2**20)) == objects


def test_what_takes_more_on_the_disk_than_told_is_refused_at_the_end(
    object_store, tmp_path, monkeypatch
):
    monkeypatch.setattr("deploy.staging.disk_bytes", lambda _: 3 * 2**20)
    with pytest.raises(DataError, match=r"needs 3 MiB on this node, but .* may hold 2 MiB in all"):
        stage(object_store.upload(FILES), tmp_path, limit_bytes=2 * 2**20)
