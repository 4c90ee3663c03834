from __future__ import annotations

import errno
import socket
import tarfile
from pathlib import Path

import pytest
from object_stores import image_folder, png, tar

from deploy import object_store as store_module
from deploy.fetching import Fetcher
from deploy.staging import stage
from pas_trainer import DataError

FILES = image_folder(num_train=2, num_test=1)


def sentence(uri: str, cache: Path) -> str:
    with pytest.raises(DataError) as error:
        stage(uri, cache)
    return str(error.value)


def test_a_bucket_that_is_not_there(object_store, tmp_path):
    assert sentence("s3://nobody/data", tmp_path) == (
        f"data.root is s3://nobody/data, but there is no bucket nobody at {object_store.url}; "
        "create it, or correct data.root or AWS_ENDPOINT_URL"
    )


def test_nothing_below_the_prefix(object_store, tmp_path):
    uri = object_store.upload({"cats/0.png": png(0), "notes.txt": b"x"})
    assert sentence(f"{uri}/deeper", tmp_path) == (
        f"data.root is {uri}/deeper, but there are no images train/<class>/* and test/<class>/* "
        "and no .tar objects below it (nothing at all); correct data.root or upload them"
    )
    assert "(2 others, such as cats/0.png)" in sentence(uri, tmp_path)


def test_credentials_and_permissions(object_store, tmp_path, monkeypatch):
    uri = object_store.upload(FILES)
    users = object_store.client("iam")
    users.create_user(UserName="nobody")
    key = users.create_access_key(UserName="nobody")["AccessKey"]
    object_store.check_credentials(True)
    try:
        unknown = sentence(uri, tmp_path)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        wrong = sentence(uri, tmp_path)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        not_allowed = sentence(uri, tmp_path)
    finally:
        object_store.check_credentials(False)
    refuses = f"data.root is {uri}, but the store at {object_store.url} refuses the credentials"
    assert unknown == (
        f"{refuses} (InvalidAccessKeyId); correct AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
        "AWS_SESSION_TOKEN, or the machine's role"
    )
    assert wrong.startswith(f"{refuses} (SignatureDoesNotMatch)")
    assert not_allowed == (
        f"data.root is {uri}, but it may not be read with these credentials (AccessDenied); "
        "grant them s3:ListBucket on the bucket and s3:GetObject on its objects"
    )
    for secret in (key["AccessKeyId"], key["SecretAccessKey"]):
        assert secret not in unknown + wrong + not_allowed


def test_no_credentials(object_store, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert sentence("s3://bucket/data", tmp_path) == (
        "data.root is s3://bucket/data, but there are no credentials to read it with "
        "(NoCredentialsError); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this "
        "machine a role"
    )


def test_an_endpoint_that_is_not_there_or_does_not_answer(object_store, tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "READ_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:hidden@127.0.0.1:{port}")
        assert sentence("s3://bucket/data", tmp_path) == (
            f"data.root is s3://bucket/data, but the store at http://127.0.0.1:{port} cannot be "
            "reached (EndpointConnectionError); check AWS_ENDPOINT_URL and the network"
        )
        silent.listen()
        assert "cannot be reached (ReadTimeoutError)" in sentence("s3://bucket/data", tmp_path)


def test_an_endpoint_that_is_no_address(object_store, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    assert sentence("s3://bucket/data", tmp_path) == (
        "data.root is s3://bucket/data, but the store cannot be addressed: Invalid endpoint: "
        "nonsense; correct AWS_ENDPOINT_URL (http://host:port) or the other AWS_ variables"
    )


@pytest.mark.parametrize("name", ["train/cat/../../x.png", "train//cat/x.png"])
def test_a_key_that_is_no_plain_path(object_store, tmp_path, name):
    uri = object_store.upload({**FILES, name: png(0)})
    assert sentence(uri, tmp_path) == (
        f"object {uri}/{name} cannot be staged, since its key is no plain path; rename or remove it"
    )


def test_keys_that_cannot_be_files_are_named(object_store, tmp_path):
    long = "train/cat/" + "ü" * 150 + ".png"
    uri = object_store.upload({**FILES, long: png(0)})
    assert sentence(uri, tmp_path) == (
        f"object {uri}/{long} cannot be staged, since a name in its key has more than 255 bytes; "
        "rename or remove it"
    )
    uri = object_store.upload({**FILES, "train/cat/a.png": png(0), "train/cat/a.png/b.png": png(1)})
    assert sentence(uri, tmp_path) == (
        f"object {uri}/train/cat/a.png/b.png cannot be staged, since train/cat/a.png, a folder in "
        "its key, is an object as well; rename or remove it"
    )
    assert object_store.fetched == []


@pytest.mark.parametrize(
    "names",
    [
        ["train/cat/" + "ü" * 150 + ".png"],
        ["train/cat/image 0.png/b.png"],
        ["train/cat/a.png", "train/cat/a.png/b.png"],
    ],
)
def test_files_of_shards_that_the_disk_does_not_take_are_named(object_store, tmp_path, names):
    uri = object_store.upload({**FILES, "a.tar": tar({name: png(0) for name in names})})
    told = sentence(uri, tmp_path)
    assert told.startswith(f"object {uri}/")
    assert "cannot be staged: the disk takes no file train/cat/" in told
    assert told.endswith("; give it a shorter name, or one that is no folder of others")


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (
            403,
            "RequestTimeTooSkewed",
            "data.root is {uri}, but the clock of this machine is not that of the store at "
            "{endpoint} (RequestTimeTooSkewed); set this machine's clock right",
        ),
        (
            403,
            "InvalidObjectState",
            "object {uri}/train/cat/image 0.png lies in the store's archive (InvalidObjectState); "
            "restore it there, then run the same command again",
        ),
    ],
)
def test_refusals_that_are_no_matter_of_permissions(object_store, tmp_path, status, code, told):
    uri = object_store.upload(FILES)
    object_store.refuse = lambda _method, path, _query: (
        (status, code) if path.endswith("train/cat/image 0.png") else None
    )
    assert sentence(uri, tmp_path) == told.format(uri=uri, endpoint=object_store.url)


def link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (tar(FILES, link("train/cat/l.png", "/etc/passwd")), "'train/cat/l.png' is no plain file"),
        (tar({**FILES, "train/../../../x.png": b"x"}), "'train/../../../x.png' is no plain file"),
        (b"this is no archive" * 100, "invalid header"),
        (tar(FILES)[:700], "unexpected end of data"),
        (tar({"train/cat/a.png": bytes(1024)})[:1536], "its end is missing"),
        (tar(FILES)[:512] + tar(FILES), "it is damaged, or something follows its end"),
        (tar(FILES) + tar(FILES), "it is damaged, or something follows its end"),
        (b"", "empty file"),
    ],
)
def test_a_shard_that_cannot_be_unpacked(object_store, tmp_path, archive, reason):
    uri = object_store.upload({"a.tar": archive})
    told = sentence(uri, tmp_path / "cache")
    assert told.startswith(f"object {uri}/a.tar cannot be unpacked: ")
    assert reason in told
    assert told.endswith("; pack plain files into an uncompressed tar archive and upload it again")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert len(object_store.fetched) == 1


def test_shards_of_another_layout(object_store, tmp_path):
    inside = {f"mine/{name}": content for name, content in FILES.items()}
    uri = object_store.upload({"a.tar": tar(inside)})
    assert sentence(uri, tmp_path) == (
        f"data.root is {uri}, whose shards hold no images train/<class>/*; "
        "pack folders train and test at the top of the archives"
    )


def test_two_objects_that_hold_the_same_file(object_store, tmp_path):
    name = next(iter(FILES))
    uri = object_store.upload({"a.tar": tar(FILES), "b.tar": tar({name: b"other"})})
    told = f"objects {uri}/a.tar and {uri}/b.tar both hold {name}; remove it from one of them"
    assert sentence(uri, tmp_path) == told
    assert sentence(uri, tmp_path) == told


def test_a_disk_that_fills_up(object_store, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    uri = object_store.upload(FILES)
    with monkeypatch.context() as patch:
        patch.setattr(Fetcher, "_save", full)
        assert sentence(uri, tmp_path) == (
            f"the disk of the cache {tmp_path} is full; make room or set PAS_CACHE to a larger "
            "disk, then run the same command again to go on"
        )
    assert stage(uri, tmp_path).is_dir()


def test_a_cache_that_cannot_be_written(object_store, tmp_path):
    (tmp_path / "file").touch()
    cache = tmp_path / "file" / "cache"
    assert sentence("s3://bucket/data", cache) == (
        f"the cache {cache} cannot be used: Not a directory ({cache}/staged); "
        "set PAS_CACHE to another folder"
    )
