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
        marker = tmp_path / f"{folder.name}.json"
        os.utime(marker, (time.time() - age, time.time() - age))
    use_and_release(uris[0], tmp_path)  # now b is the older one
    room = int(2.5 * NodeCache(tmp_path)._size(a.name))
    c = use_and_release(uris[2], tmp_path, room)
    assert (a.exists(), b.exists(), c.exists()) == (True, False, True)
    assert not (tmp_path / f"{b.name}.json").exists()
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
    left = tmp_path / "left" / "train"
    left.mkdir(parents=True)
    (left / "x.png").write_bytes(bytes(400_000))
    stage(object_store.upload(FILES), tmp_path, limit_bytes=300_000)
    assert not left.exists()


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
