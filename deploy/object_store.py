"""Objects below an ``s3://`` address: listed, and read with their checksums checked.

With ``store_errors.py`` the only module that knows boto3. Credentials come from boto3's own chain
(environment, files, the machine's role), the endpoint from ``AWS_ENDPOINT_URL``; neither is a
setting here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import boto3
from botocore import exceptions as aws
from botocore.config import Config

from deploy.store_errors import errors_told, setup_errors_told

CONNECT_S, READ_S, ATTEMPTS = 3, 5, 3
"""For listing, which comes first: a store that does not answer is given up after 3 x 5 s."""

FETCH_S, FETCH_ATTEMPTS = 20, 6
"""For reading from a store that has answered: it may be slow, or ask for patience."""

_VERIFIED = ("ChecksumCRC32", "ChecksumSHA1", "ChecksumSHA256", "ChecksumSHA512")
"""Checksums that botocore compares by itself while an object is read."""

_BROKEN_OFF = (aws.IncompleteReadError, aws.ReadTimeoutError, aws.ResponseStreamingError)


class BadReadError(Exception):
    """What arrived is not the object that the store has told of; to be read again."""


@dataclass(frozen=True, slots=True, order=True)
class RemoteObject:
    """One object.

    Attributes:
        path: its key below the prefix.
        size: bytes.
        etag: the store's mark of its content, in quotes as the store gives it.
    """

    path: str
    size: int
    etag: str


class ObjectStore:
    """What lies below one address; may be used by several threads.

    Args:
        uri: ``s3://bucket/prefix``.
        connections: how many threads read at once.

    Raises:
        DataError: the endpoint of the environment is no address.
    """

    def __init__(self, uri: str, connections: int) -> None:
        self.uri = uri
        self._bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        prefix = prefix.rstrip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        with setup_errors_told(uri):
            session = boto3.session.Session()
            self._lister = session.client("s3", config=_config(READ_S, ATTEMPTS, 1))
            config = _config(FETCH_S, FETCH_ATTEMPTS, connections)
            self._reader = session.client("s3", config=config)
        self._endpoint = str(self._lister.meta.endpoint_url)

    def objects(self) -> list[RemoteObject]:
        """List all objects, without those that only stand for a folder, in order.

        Raises:
            DataError: the bucket or the permission is missing, or the store cannot be reached.
        """
        pages = self._lister.get_paginator("list_objects_v2")
        with errors_told(self.uri, self._endpoint):
            return sorted(
                RemoteObject(item["Key"][len(self._prefix) :], item["Size"], item["ETag"])
                for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix)
                for item in page.get("Contents", ())
                if not item["Key"].endswith("/")
            )

    def open(self, item: RemoteObject) -> ObjectReader:
        """Begin to read an object.

        Raises:
            DataError: it has changed since it was listed, or cannot be read.
        """
        with errors_told(self.uri, self._endpoint, self.name(item)):
            response = self._reader.get_object(
                Bucket=self._bucket, Key=self._prefix + item.path, IfMatch=item.etag
            )
        return ObjectReader(response, item)

    def close(self) -> None:
        """Drop the connections."""
        self._lister.close()
        self._reader.close()

    def name(self, item: RemoteObject) -> str:
        """Return the whole address of an object."""
        return f"s3://{self._bucket}/{self._prefix}{item.path}"


class ObjectReader:
    """One object as a file that is read once, from beginning to end."""

    def __init__(self, response: dict[str, Any], item: RemoteObject) -> None:
        self._body, self._item, self._size = response["Body"], item, 0
        self._md5 = hashlib.md5(usedforsecurity=False) if _has_md5(response) else None

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most ``size``; none at the end.

        Raises:
            BadReadError: the connection broke off, or the object's checksum differs.
        """
        try:
            data: bytes = self._body.read(size)
        except aws.FlexibleChecksumError:
            raise BadReadError("its checksum differs from the store's") from None
        except _BROKEN_OFF:
            raise BadReadError(
                f"its content broke off after {self._size} of {self._item.size} bytes"
            ) from None
        self._size += len(data)
        if self._md5 is not None:
            self._md5.update(data)
        return data

    def finish(self) -> None:
        """Read what is left and check the whole.

        Raises:
            BadReadError: size or checksum differ from what the store has told.
        """
        while self.read(2**20):
            pass
        if self._size != self._item.size:
            raise BadReadError(f"it has {self._size} bytes instead of {self._item.size}")
        if self._md5 is not None and self._md5.hexdigest() != self._item.etag.strip('"'):
            raise BadReadError("its MD5 differs from its ETag")

    def close(self) -> None:
        """Drop the connection."""
        self._body.close()


def _config(read_s: float, attempts: int, connections: int) -> Config:
    return Config(
        connect_timeout=CONNECT_S,
        read_timeout=read_s,
        retries={"total_max_attempts": attempts, "mode": "standard"},
        max_pool_connections=connections,
    )


def _has_md5(response: dict[str, Any]) -> bool:
    """Whether the ETag is the content's MD5, and nothing better is checked by botocore.

    It is not for objects of several parts, nor for those encrypted with keys of their own.
    """
    checked = any("-" not in response.get(name, "-") for name in _VERIFIED)
    encrypted = "kms" in response.get("ServerSideEncryption", "")
    etag = response.get("ETag", "").strip('"')
    own_key = "SSECustomerAlgorithm" in response
    return len(etag) == 32 and not (checked or encrypted or own_key)
