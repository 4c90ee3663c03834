"""What boto3 raises, as one sentence each: what is wrong with an object store, and the way out.

Nothing that could be a secret is repeated: neither keys, nor the store's own words (which hold
them), nor credentials in an endpoint's address.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from botocore import exceptions as aws

from pas_trainer import DataError


class StoreAwayError(DataError):
    """The store cannot be reached, or has no time: what was tried may succeed later."""


@dataclass(frozen=True, slots=True)
class StoreUse:
    """What a store is used for, as sentences name it.

    Attributes:
        field: of the sweep file.
        verb, done: what is done with objects, and its participle.
        rights: that credentials need.
    """

    field: str
    verb: str
    done: str
    rights: str


IMAGES = StoreUse(
    "data.root", "read", "read", "s3:ListBucket on the bucket and s3:GetObject on its objects"
)
FILES = StoreUse(
    "storage.uri",
    "use",
    "used",
    "s3:ListBucket on the bucket and s3:GetObject, s3:PutObject, s3:DeleteObject and "
    "s3:AbortMultipartUpload on its objects",
)

_UNREACHABLE = (aws.HTTPClientError, aws.ConnectionError)
_NO_CREDENTIALS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.TokenRetrievalError,
    aws.ProfileNotFound,
)
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP statuses of a store that asks for patience."""

_BUSY_CODES = frozenset({"RequestTimeout", "NoSuchUpload"})
"""Of others that do: what was sent came too slowly; an upload in parts was ended by somebody."""

_REFUSED_KEYS = frozenset(
    {
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "InvalidClientTokenId",
    }
)


@contextlib.contextmanager
def setup_errors_told(uri: str, use: StoreUse) -> Iterator[None]:
    """Tell what is wrong with boto3's surroundings.

    Args:
        uri: ``s3://bucket/prefix``.
        use: what for.

    Raises:
        DataError: in one sentence.
    """
    try:
        yield
    except _NO_CREDENTIALS as error:
        raise DataError(_no_credentials(uri, use, error)) from None
    except (aws.BotoCoreError, ValueError) as error:
        raise DataError(
            f"{use.field} is {uri}, but the store cannot be addressed: {_words(error)}; "
            "correct AWS_ENDPOINT_URL (http://host:port) or the other AWS_ variables"
        ) from None


@contextlib.contextmanager
def errors_told(
    uri: str, endpoint: str, use: StoreUse, name: str | None = None, *, listed: bool = False
) -> Iterator[None]:
    """Tell why something cannot be read or written.

    Args:
        uri: ``s3://bucket/prefix``.
        endpoint: address of the store.
        use: what for.
        name: of one object; ``None`` while they are listed.
        listed: whether it was listed before: another one, or none, is a change.

    Raises:
        StoreAwayError: in one sentence: it may succeed later.
        DataError: in one sentence.
    """
    parts = urlsplit(endpoint)
    endpoint = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    what = f"{use.field} is {uri}, but it" if name is None else f"object {name}"
    try:
        yield
    except _NO_CREDENTIALS as error:
        raise DataError(_no_credentials(uri, use, error)) from None
    except _UNREACHABLE as error:
        raise StoreAwayError(
            f"{use.field} is {uri}, but the store at {endpoint} cannot be reached "
            f"({type(error).__name__}); check AWS_ENDPOINT_URL and the network"
        ) from None
    except aws.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if listed and status in {404, 412} and code != "NoSuchBucket":
            code = "changed"
        is_busy = status in _BUSY or code in _BUSY_CODES
        kind = StoreAwayError if is_busy else DataError
        raise kind(_refusal(code, status, uri, endpoint, use, what)) from None
    except aws.BotoCoreError as error:
        raise DataError(
            f"{what} cannot be {use.done} ({type(error).__name__}); check {use.field} and "
            "AWS_ENDPOINT_URL"
        ) from None


def _refusal(
    code: str, status: int | None, uri: str, endpoint: str, use: StoreUse, what: str
) -> str:
    """Return the sentence for what the store answered."""
    if (sentence := _of_code(code, uri, endpoint, use, what)) is not None:
        return sentence
    if code in _REFUSED_KEYS:
        return (
            f"{use.field} is {uri}, but the store at {endpoint} refuses the credentials ({code}); "
            "correct AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the "
            "machine's role"
        )
    if status in {401, 403}:
        return (
            f"{what} may not be {use.done} with these credentials ({code}); grant them {use.rights}"
        )
    return (
        f"{what} cannot be {use.done}: the store at {endpoint} answers {code}; "
        f"check {use.field}, AWS_ENDPOINT_URL and AWS_DEFAULT_REGION"
    )


def _of_code(code: str, uri: str, endpoint: str, use: StoreUse, what: str) -> str | None:
    """Return the sentence for a code that has one of its own."""
    bucket = uri.removeprefix("s3://").split("/")[0]
    unfinished = (
        f"{what} could not be written to its end at {endpoint} ({code}); check the network, then "
        "run the same command again"
    )
    return {
        "changed": f"{what} has changed while it was being staged; run the same command again",
        "NoSuchBucket": f"{use.field} is {uri}, but there is no bucket {bucket} at {endpoint}; "
        f"create it, or correct {use.field} or AWS_ENDPOINT_URL",
        "RequestTimeTooSkewed": f"{use.field} is {uri}, but the clock of this machine is not that "
        f"of the store at {endpoint} ({code}); set this machine's clock right",
        "InvalidObjectState": f"{what} lies in the store's archive ({code}); restore it there, "
        "then run the same command again",
        **dict.fromkeys(_BUSY_CODES, unfinished),
    }.get(code)


def _no_credentials(uri: str, use: StoreUse, error: Exception) -> str:
    return (
        f"{use.field} is {uri}, but there are no credentials to {use.verb} it with "
        f"({type(error).__name__}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give "
        "this machine a role"
    )


def _words(error: Exception) -> str:
    """Return what an error says, unless it holds an address with credentials."""
    text = str(error)
    return type(error).__name__ if "@" in text else text
