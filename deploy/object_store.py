"""Objects below an ``s3://`` address: listed, and read with their checksums checked.

The only module that knows boto3. Credentials come from boto3's own chain (environment, files, the
machine's role), the endpoint from ``AWS_ENDPOINT_URL``; neither is a setting here.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore import exceptions as aws
from botocore.config import Config

from pas_trainer import DataError

CONNECT_S, READ_S, ATTEMPTS = 3, 5, 3
"""A store that does not answer is given up after about 3 x 5 s."""

_VERIFIED = ("ChecksumCRC32", "ChecksumSHA1", "ChecksumSHA256", "ChecksumSHA512")
"""Checksums that botocore compares by itself while an object is read."""

_BROKEN_OFF = (aws.IncompleteReadError, aws.ReadTimeoutError, aws.ResponseStreamingError)
_UNREACHABLE = (aws.HTTPClientError, aws.ConnectionError)
_NO_CREDENTIALS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.TokenRetrievalError,
    aws.ProfileNotFound,
)
_REFUSED_KEYS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "InvalidClientTokenId",
}


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
        config = Config(
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
            max_pool_connections=connections,
        )
        try:
            self._client = boto3.session.Session().client("s3", config=config)
        except _NO_CREDENTIALS as error:
            raise DataError(self._no_credentials(error)) from None
        except (aws.BotoCoreError, ValueError) as error:
            raise DataError(
                f"data.root is {uri}, but the store cannot be addressed: {error}; "
                "correct AWS_ENDPOINT_URL (http://host:port) or the other AWS_ variables"
            ) from None

    def objects(self) -> list[RemoteObject]:
        """List all objects, without those that only stand for a folder, in order.

        Raises:
            DataError: the bucket or the permission is missing, or the store cannot be reached.
        """
        pages = self._client.get_paginator("list_objects_v2")
        with self._told():
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
        with self._told(item):
            response = self._client.get_object(
                Bucket=self._bucket, Key=self._prefix + item.path, IfMatch=item.etag
            )
        return ObjectReader(response, item)

    def name(self, item: RemoteObject) -> str:
        """Return the whole address of an object."""
        return f"s3://{self._bucket}/{self._prefix}{item.path}"

    @contextlib.contextmanager
    def _told(self, item: RemoteObject | None = None) -> Iterator[None]:
        """Turn what boto3 raises into one sentence."""
        what = self._subject(item)
        try:
            yield
        except _NO_CREDENTIALS as error:
            raise DataError(self._no_credentials(error)) from None
        except _UNREACHABLE as error:
            raise DataError(
                f"data.root is {self.uri}, but the store at {self._endpoint} cannot be reached "
                f"({type(error).__name__}); check AWS_ENDPOINT_URL and the network"
            ) from None
        except aws.ClientError as error:
            raise DataError(self._refusal(error, item)) from None
        except aws.BotoCoreError as error:
            raise DataError(
                f"{what} cannot be read: {error}; check data.root and AWS_ENDPOINT_URL"
            ) from None

    def _subject(self, item: RemoteObject | None) -> str:
        if item is None:
            return f"data.root is {self.uri}, but it"
        return f"object {self.name(item)}"

    def _refusal(self, error: aws.ClientError, item: RemoteObject | None) -> str:
        what = self._subject(item)
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if code == "NoSuchBucket":
            return (
                f"data.root is {self.uri}, but there is no bucket {self._bucket} at "
                f"{self._endpoint}; create it, or correct data.root or AWS_ENDPOINT_URL"
            )
        if item is not None and status in {404, 412}:
            return f"{what} has changed while it was being staged; run the same command again"
        if code in _REFUSED_KEYS:
            return (
                f"data.root is {self.uri}, but the store at {self._endpoint} refuses the "
                f"credentials ({code}); correct AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
                "AWS_SESSION_TOKEN, or the machine's role"
            )
        if status in {401, 403}:
            return (
                f"{what} may not be read with these credentials ({code}); "
                "grant them s3:ListBucket on the bucket and s3:GetObject on its objects"
            )
        return (
            f"{what} cannot be read: the store at {self._endpoint} answers {code}; "
            "check data.root, AWS_ENDPOINT_URL and AWS_DEFAULT_REGION"
        )

    def _no_credentials(self, error: Exception) -> str:
        return (
            f"data.root is {self.uri}, but there are no credentials to read it with "
            f"({type(error).__name__}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give "
            "this machine a role"
        )

    @property
    def _endpoint(self) -> str:
        """Address of the store, without credentials."""
        parts = urlsplit(str(self._client.meta.endpoint_url))
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


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


def _has_md5(response: dict[str, Any]) -> bool:
    """Whether the ETag is the content's MD5, and nothing better is checked by botocore.

    It is not for objects of several parts, nor for those encrypted with keys of their own.
    """
    checked = any("-" not in response.get(name, "-") for name in _VERIFIED)
    encrypted = "kms" in response.get("ServerSideEncryption", "")
    etag = response.get("ETag", "").strip('"')
    own_key = "SSECustomerAlgorithm" in response
    return len(etag) == 32 and not (checked or encrypted or own_key)
