"""One object of a store, read from beginning to end with its checksum checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from botocore import exceptions as aws

_VERIFIED = ("ChecksumCRC32", "ChecksumSHA1", "ChecksumSHA256", "ChecksumSHA512")
"""Checksums that botocore compares by itself while an object is read."""

BROKEN_OFF = (aws.IncompleteReadError, aws.ReadTimeoutError, aws.ResponseStreamingError)


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
        except BROKEN_OFF:
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
