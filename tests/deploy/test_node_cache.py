from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from object_stores import files_in, image_folder

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
    room = int(2.5 * NodeCache(tmp_path)._size(a.name))
    c = use_and_release(uris[2], tmp_path, room)
    assert (a.exists(), b.exists(), c.exists()) == (True, False, True)
    assert not (tmp_path / "staged" / f"{b.name}.json").exists()
    assert files_in(stage(uris[1], tmp_path)) == image_folder(size=60, seed=1)


def test_what_is_in_use_is_never_evicted(object_store, tmp_path):
    first, second = (object_store.upload(image_folder(size=60, seed=seed)) for seed in (0, 1))
    used = stage(first, tmp_path)
    room = int(1.5 * NodeCache(tmp_path)._size(used.name))
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
    with pytest.raises(DataError, match=r"needs 5 MiB on this node, but the cache .* has 66 MiB f"):
        stage(uri, tmp_path)
    assert object_store.fetched == []
    assert old.exists()
