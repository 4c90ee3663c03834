"""What is wrong with a sweep's storage is told before compute is spent."""

from __future__ import annotations

import getpass
import json
import shutil
import socket
from contextlib import contextmanager

import pytest

from orchestrator.driver import only_driver
from orchestrator.errors import UserError
from orchestrator.growth import recorded_config, with_recorded_cells
from orchestrator.home import Home, write_json
from orchestrator.loading import parse_sweep
from orchestrator.slots import Usage, keep_usage, kept_usage
from orchestrator.storage import follow_storage, prepare_storage
from orchestrator.sweep_lock import only_driver_of_store


def sweep(uri, **sections):
    document = {
        "name": "stored",
        "data": {"name": "digits"},
        "supernet": {"name": "repvgg_tiny"},
        "budget": {"limits": [0.5]},
        "strengths": [10],
        "storage": {"uri": uri},
    }
    return parse_sweep({**document, **sections}, "test")


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home")


def sentence(uri, home, *, dry_run=False) -> str:
    with pytest.raises(UserError) as error:
        prepare_storage(sweep(uri), home, dry_run=dry_run)
    return str(error.value)


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_bucket_that_is_not_there(object_store, home, dry_run):
    assert sentence("s3://nobody/x", home, dry_run=dry_run) == (
        f"storage.uri is s3://nobody/x, but there is no bucket nobody at {object_store.url}; "
        "create it, or correct storage.uri or AWS_ENDPOINT_URL"
    )


def test_credentials_and_permissions(object_store, home, monkeypatch):
    uri = object_store.upload({}, "x")
    users = object_store.client("iam")
    users.create_user(UserName="reader")
    key = users.create_access_key(UserName="reader")["AccessKey"]
    reading = {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetObject"], "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [reading]})
    users.put_user_policy(UserName="reader", PolicyName="reading", PolicyDocument=policy)
    object_store.check_credentials(True)
    try:
        unknown = sentence(uri, home)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        prepare_storage(sweep(uri), home, dry_run=True)
        read_only = sentence(uri, home)
    finally:
        object_store.check_credentials(False)
    assert unknown.startswith(
        f"storage.uri is {uri}, but the store at {object_store.url} refuses the credentials "
        "(InvalidAccessKeyId); correct AWS_ACCESS_KEY_ID"
    )
    assert read_only.startswith(f"object {uri}/probe-")
    assert read_only.endswith(
        " may not be used with these credentials (AccessDenied); grant them s3:ListBucket on the "
        "bucket and s3:GetObject, s3:PutObject, s3:DeleteObject and "
        "s3:AbortMultipartUpload on its objects"
    )
    for secret in (key["AccessKeyId"], key["SecretAccessKey"]):
        assert secret not in unknown + read_only


def test_no_credentials_and_no_store(object_store, home, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    assert sentence("s3://bucket/x", home) == (
        f"storage.uri is s3://bucket/x, but the store at http://127.0.0.1:{port} cannot be reached "
        "(EndpointConnectionError); check AWS_ENDPOINT_URL and the network"
    )
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "there are no credentials to use it with" in sentence("s3://bucket/x", home)


def test_nothing_is_left_of_the_check(object_store, home):
    uri = object_store.upload({}, "x")
    prepare_storage(sweep(uri), home, dry_run=True)
    assert object_store.written == []
    prepare_storage(sweep(uri), home, dry_run=False)
    assert {path.rpartition("-")[0] for path in object_store.written} == {f"/{uri[5:]}/probe"}
    assert object_store.objects(uri) == {}


@pytest.mark.parametrize("ignored", [{"If-None-Match"}, {"If-Match"}])
def test_a_store_that_cannot_keep_drivers_apart(object_store, home, ignored):
    uri = object_store.upload({}, "x")
    object_store.conditions -= ignored
    assert f"store ignores conditions of writes ({', '.join(ignored)}), by" in sentence(uri, home)
    assert object_store.objects(uri) == {}


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("s3://key:hidden@bucket/x", r"storage\.uri: must not hold credentials; set AWS_ACCESS"),
        ("gs://bucket/x", "is 'gs://bucket/x'; write s3://bucket/prefix, or null"),
        ("s3://bucket//x", "is 's3://bucket//x'; write s3://bucket/prefix"),
        ("/a/folder", "is '/a/folder'; write s3://bucket/prefix, or null for the home folder"),
    ],
)
def test_addresses_that_cannot_be_used_are_refused(uri, told):
    with pytest.raises(UserError, match=told) as error:
        sweep(uri)
    assert "hidden" not in str(error.value)


def test_where_files_are_kept_does_not_decide_what_they_are(object_store):
    assert sweep("s3://bucket/a/").sweep_id == sweep(None).sweep_id
    assert sweep("s3://bucket/a/").storage.uri == "s3://bucket/a"


def recorded(config, tracking_uri="sqlite:////there/mlflow.db"):
    return {"config": config.model_dump(mode="json"), "tracking_uri": tracking_uri}


def test_a_driver_elsewhere_learns_of_the_sweeps_of_this_name(object_store, home):
    uri = object_store.upload({}, "x")
    grown, other = sweep(uri, strengths=[10, 1]), sweep(uri, seed=1)
    for config in (grown, other, sweep(uri, name="stored-more")):
        document = json.dumps(recorded(config)).encode()
        object_store.put(uri, f"sweeps/{config.sweep_id}/sweep.json", document)
    object_store.put(uri, "sweeps/stored-/x", b"")
    object_store.make_older(uri, f"sweeps/{grown.sweep_id}/sweep.json", 60)
    prepare_storage(sweep(uri), home, dry_run=True)
    assert {path.name for path in home.root.glob("sweeps/*")} == {grown.sweep_id, other.sweep_id}
    assert home.tracking_uri_of(grown.sweep_id) == home.mlflow_uri
    found = recorded_config(home, grown.sweep_id)
    assert found is not None
    assert found.strengths == [10, 1]
    latest = recorded_config(home, "stored")
    assert latest is not None
    assert latest.seed == 1


def test_a_home_that_is_behind_gets_what_others_added(object_store, home):
    uri = object_store.upload({}, "x")
    behind = sweep(uri, trials_per_cell=2, strengths=[10, 3])
    ahead = sweep(uri, budget={"limits": [0.5, 0.25]}, trials_per_cell=3)
    write_json(home.sweep(behind.sweep_id) / "sweep.json", recorded(behind, "http://here"))
    stored = f"sweeps/{ahead.sweep_id}/sweep.json"
    object_store.put(uri, stored, json.dumps(recorded(ahead)).encode())
    prepare_storage(behind, home, dry_run=True)
    merged = with_recorded_cells(sweep(uri), home)
    assert (merged.budget.limits, merged.strengths) == ([0.5, 0.25], [10, 3])
    assert merged.trials_per_cell == 3
    assert home.tracking_uri_of(behind.sweep_id) == "http://here"
    with pytest.raises(UserError, match="has just been extended by a driver elsewhere; run the sa"):
        follow_storage(behind, home)
    follow_storage(merged, home)


@pytest.mark.parametrize(("here", "kept"), [(35.0, 50.0), (60.0, 60.0), (None, 50.0)])
def test_hours_that_others_used_are_not_lost(object_store, home, here, kept):
    config = sweep(object_store.upload({}, "x"))
    path = home.sweep(config.sweep_id) / "usage.json"
    if here is not None:
        keep_usage(path, Usage(cpu_seconds=here))
    there = json.dumps({"cpu_seconds": 50.0, "slot_seconds": 70.0}).encode()
    object_store.put(config.storage.uri, f"sweeps/{config.sweep_id}/usage.json", there)
    follow_storage(config, home)
    assert kept_usage(path).cpu_seconds == kept


@pytest.mark.parametrize("content", [b'{"config"', b"[]", b'{"config": {}}', b"\xff"])
def test_a_damaged_record_on_the_store_is_named(object_store, home, content):
    uri = object_store.upload({}, "x")
    name = f"sweeps/{sweep(uri, seed=1).sweep_id}/sweep.json"
    object_store.put(uri, name, content)
    assert sentence(uri, home) == (
        f"object {uri}/{name} is damaged: it does not hold the settings of a sweep; restore it, or "
        "remove it and run the sweep's file again, which writes a new one"
    )
    assert not home.root.exists()


def test_a_sweep_stays_where_its_files_are(object_store, home):
    uri = object_store.upload({}, "x")
    config = sweep(None)
    write_json(home.sweep(config.sweep_id) / "sweep.json", recorded(config))
    assert sentence(uri, home) == (
        f"storage.uri: sweep {config.sweep_id} keeps its files in the home folder {home.root}, not "
        f"in {uri}; set it back, or copy 'sweeps' and 'supernets' from there and set PAS_HOME to "
        "an empty folder"
    )
    prepare_storage(config, home, dry_run=False)


@contextmanager
def driver(home, uri):
    with (
        only_driver(home, "s-1") as token,
        only_driver_of_store("s-1", uri, token) as taken_over,
    ):
        yield taken_over


def test_drivers_that_share_only_the_store_exclude_each_other(object_store, home, tmp_path):
    uri, elsewhere = object_store.upload({}, "x"), Home(tmp_path / "elsewhere")
    with driver(home, uri) as taken_over:
        assert not taken_over.is_set()
        with pytest.raises(UserError) as error, driver(elsewhere, uri):
            pass
        assert f"sweep s-1 is being run by {getpass.getuser()} on" in str(error.value)
        assert "is dead, run the same command again in 1" in str(error.value)
    with driver(elsewhere, uri):
        pass
    assert object_store.objects(uri) == {}


def test_a_driver_that_was_killed_in_this_home_is_followed_at_once(object_store, home, tmp_path):
    uri, elsewhere = object_store.upload({}, "x"), Home(tmp_path / "elsewhere")
    with driver(home, uri):
        content = object_store.objects(uri)["sweeps/s-1/lock"]
    object_store.put(uri, "sweeps/s-1/lock", content)  # it was killed instead
    shutil.copytree(home.root, elsewhere.root)
    with pytest.raises(UserError), driver(elsewhere, uri):
        pass
    with driver(home, uri):
        pass
