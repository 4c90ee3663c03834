"""A lock between processes that share nothing but an S3 endpoint."""

from __future__ import annotations

import threading

import pytest

from deploy import store_lock
from deploy.object_store import ObjectStore
from deploy.store_errors import FILES
from deploy.store_lock import LockHeldError, StoreLock


@pytest.fixture
def uri(object_store):
    return object_store.upload({}, "p")


def lock(uri, token, **options) -> StoreLock:
    return StoreLock(ObjectStore(uri, 1, FILES), "lock", f"owner of {token}", token, **options)


def test_one_holds_it_and_others_are_told_who_and_for_how_long(object_store, uri):
    with lock(uri, "a"):
        object_store.make_older(uri, "lock", 30)
        with pytest.raises(LockHeldError) as held, lock(uri, "b"):
            pass
        assert held.value.owner == "owner of a"
        assert 0 < held.value.wait_s <= store_lock.EXPIRY_S - 29
    assert object_store.objects(uri) == {}
    with lock(uri, "b"):
        pass


def test_of_many_that_come_at_once_one_gets_it(uri):
    held, go = [], threading.Barrier(8)

    def take(number: int) -> None:
        mine = lock(uri, str(number))
        go.wait()
        try:
            mine.__enter__()
        except LockHeldError:
            return
        held.append(mine)

    threads = [threading.Thread(target=take, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (holder,) = held
    holder.__exit__()


def test_a_holder_that_no_longer_renews_it_is_followed_and_finds_out(object_store, uri):
    first, second = lock(uri, "a"), lock(uri, "b")
    first.__enter__()
    assert first.renew()
    object_store.make_older(uri, "lock", store_lock.EXPIRY_S + 1)
    with second:
        assert second.renew()
        assert not first.renew()
        first.__exit__()
        assert second.renew()  # not taken from it


def test_a_holder_by_the_same_token_is_followed_at_once(uri):
    lock(uri, "a").__enter__()
    with pytest.raises(LockHeldError), lock(uri, "b"):
        pass
    with lock(uri, "a") as mine:
        assert mine.renew()


def test_the_thread_renews_it_and_tells_of_a_loss(object_store, uri, monkeypatch):
    monkeypatch.setattr(store_lock, "RENEW_S", 0.05)
    lost = threading.Event()
    with lock(uri, "a", lost=lost.set):
        content = object_store.objects(uri)["lock"]
        object_store.wait_until(lambda: object_store.objects(uri)["lock"] != content)
        object_store.put(uri, "lock", b'{"owner": "another", "token": "b"}')
        assert lost.wait(60)
    assert b"another" in object_store.objects(uri)["lock"]


def test_answers_that_get_lost_do_not_lose_the_lock(uri):
    mine = lock(uri, "a")
    ObjectStore(uri, 1, FILES).write("lock", b'{"owner": "owner of a", "token": "a"}')
    with mine:  # an earlier attempt of its own has made the object
        ObjectStore(uri, 1, FILES).write("lock", b'{"owner": "owner of a", "token": "a", "n": 2}')
        assert mine.renew()


def test_a_lock_that_somebody_deleted_is_made_again(object_store, uri):
    with lock(uri, "a") as mine:
        mine._store.delete("lock")
        assert mine.renew()
        assert "lock" in object_store.objects(uri)
