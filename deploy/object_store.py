"""Objects below an ``s3://`` address: listed, read with their checksums checked, written whole.

With ``object_reader.py`` and ``store_errors.py`` all that knows boto3. Credentials come from
boto3's own chain (environment, files, the machine's role), the endpoint from ``AWS_ENDPOINT_URL``;
neither is a setting here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO

import boto3
from boto3.s3.transfer import TransferConfig
from botocore import exceptions as aws
from botocore.config import Config

from deploy.object_reader import BROKEN_OFF, ObjectReader, RemoteObject
from deploy.store_errors import (
    IMAGES,
    StoreAwayError,
    StoreUse,
    errors_told,
    setup_errors_told,
)

CONNECT_S, READ_S, ATTEMPTS = 3, 5, 3
"""For what is small, and comes first: a store that does not answer is given up after 3 x 5 s."""

FETCH_S, FETCH_ATTEMPTS = 20, 6
"""For what may be large, with a store that has answered: it may be slow, or ask for patience."""

_PARTS = TransferConfig(multipart_threshold=16 * 2**20, multipart_chunksize=16 * 2**20)
"""Files from 16 MiB on are written in parts, several at once and each tried again by itself."""


@dataclass(frozen=True, slots=True)
class SmallObject:
    """One object, read whole.

    Attributes:
        content: of it.
        etag: the store's mark of that.
        age_s: seconds since it was written, by the store's own clock.
    """

    content: bytes
    etag: str
    age_s: float


class ObjectStore:
    """What lies below one address; may be used by several threads.

    Args:
        uri: ``s3://bucket/prefix``.
        connections: how many threads read or write at once.
        use: what for, which sentences about errors name.

    Raises:
        DataError: the endpoint of the environment is no address.
    """

    def __init__(self, uri: str, connections: int, use: StoreUse = IMAGES) -> None:
        self.uri, self._use = uri, use
        self._bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        prefix = prefix.rstrip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        with setup_errors_told(uri, use):
            session = boto3.session.Session()
            self._quick = session.client("s3", config=_config(READ_S, ATTEMPTS, connections))
            # Whoever keeps files is patient itself, see stored_files.
            attempts = FETCH_ATTEMPTS if use is IMAGES else ATTEMPTS
            config = _config(FETCH_S, attempts, connections)
            self._bulk = session.client("s3", config=config)
        self._endpoint = str(self._quick.meta.endpoint_url)

    def objects(self, below: str = "") -> list[RemoteObject]:
        """List all objects, without those that only stand for a folder, in order.

        Args:
            below: only those whose paths begin so.

        Raises:
            DataError: the bucket or the permission is missing, or the store cannot be reached.
        """
        pages = self._quick.get_paginator("list_objects_v2")
        with self._told():
            return sorted(
                RemoteObject(item["Key"][len(self._prefix) :], item["Size"], item["ETag"])
                for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + below)
                for item in page.get("Contents", ())
                if not item["Key"].endswith("/")
            )

    def folders(self, below: str) -> list[str]:
        """List what stands between ``below`` and the next slash of the objects' paths.

        Raises:
            DataError: as :meth:`objects`.
        """
        pages = self._quick.get_paginator("list_objects_v2")
        start = self._prefix + below
        with self._told():
            return [
                item["Prefix"][len(start) : -1]
                for page in pages.paginate(Bucket=self._bucket, Prefix=start, Delimiter="/")
                for item in page.get("CommonPrefixes", ())
            ]

    def open(self, item: RemoteObject) -> ObjectReader:
        """Begin to read an object.

        Raises:
            DataError: it has changed since it was listed, or cannot be read.
        """
        with self._told(item.path, listed=True):
            response = self._bulk.get_object(**self._at(item.path), IfMatch=item.etag)
        return ObjectReader(response, item)

    def read(self, path: str) -> SmallObject | None:
        """Return a small object as it is now, or ``None`` if there is none.

        Raises:
            DataError: it cannot be read.
        """
        with self._told(path):
            try:
                response = self._quick.get_object(**self._at(path))
                content = response["Body"].read()
            except self._quick.exceptions.NoSuchKey:
                return None
            except (aws.FlexibleChecksumError, *BROKEN_OFF):
                raise StoreAwayError(f"{self._address(path)} broke off while being read") from None
        headers = response["ResponseMetadata"]["HTTPHeaders"]
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else None
        changed: datetime = response["LastModified"]
        age_s = max(0.0, (now - changed).total_seconds()) if now else 0.0
        return SmallObject(content, response["ETag"], age_s)

    def write(self, path: str, content: bytes | IO[bytes]) -> None:
        """Write an object, at most 5 GiB, whatever is there: it appears whole or not at all.

        Raises:
            DataError: it cannot be written.
        """
        with self._told(path):
            self._bulk.put_object(**self._at(path), Body=content)

    def upload(self, path: str, source: Path) -> None:
        """Write an object of any size from a file, a large one in parts: whole or not at all.

        Raises:
            DataError: it cannot be written.
        """
        with self._told(path), source.open("rb") as file:
            self._bulk.upload_fileobj(file, self._bucket, self._prefix + path, Config=_PARTS)

    def write_over(self, path: str, content: bytes, etag: str | None) -> str | None:
        """Write an object in place of the one with this ETag (``None``: only if there is none).

        Returns:
            Its ETag, or ``None`` if something else is there: then nothing is written.

        Raises:
            DataError: it cannot be written.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        with self._told(path):
            try:
                answer = self._quick.put_object(**self._at(path), Body=content, **condition)
            except aws.ClientError as error:
                # 409: somebody else writes it now; 404: nothing is there any more.
                if error.response["ResponseMetadata"]["HTTPStatusCode"] in {404, 409, 412} and (
                    error.response["Error"]["Code"] != "NoSuchBucket"
                ):
                    return None
                raise
        return str(answer["ETag"])

    def delete(self, path: str) -> None:
        """Delete an object, if there is one.

        Raises:
            DataError: that is not possible.
        """
        with self._told(path):
            self._bulk.delete_object(**self._at(path))

    def close(self) -> None:
        """Drop the connections."""
        self._quick.close()
        self._bulk.close()

    def name(self, item: RemoteObject) -> str:
        """Return the whole address of an object."""
        return self._address(item.path)

    def _address(self, path: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{path}"

    def _at(self, path: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + path}

    @contextmanager
    def _told(self, path: str | None = None, *, listed: bool = False) -> Iterator[None]:
        name = None if path is None else self._address(path)
        with errors_told(self.uri, self._endpoint, self._use, name, listed=listed):
            yield


def _config(read_s: float, attempts: int, connections: int) -> Config:
    return Config(
        connect_timeout=CONNECT_S,
        read_timeout=read_s,
        retries={"total_max_attempts": attempts, "mode": "standard"},
        max_pool_connections=connections,
    )
