"""How MLflow is reached: a quiet client, a health check, and which errors are worth a retry.

MLflow reads its environment when imported, so the defaults below are set before. They are
defaults only: a variable that is already set stays.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from orchestrator.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

# A request that MLflow repeats by itself can create the same run twice, and its seven retries
# stall a caller for minutes: we retry ourselves, looking first for what has arrived.
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)

_PERMANENT = {
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "BAD_REQUEST",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "INVALID_STATE",
    "FEATURE_DISABLED",
    "NOT_IMPLEMENTED",
}
_ANSWER_S = 5.0


class TrackingError(UserError):
    """The tracking store cannot be reached, or did not take what was written to it."""


def mask_uri(uri: str) -> str:
    """Return ``uri`` with any ``user:password@`` shown as ``***@``."""
    return re.sub(r"(?<=://)[^/@\s]*@", "***@", uri)


def is_http(uri: str) -> bool:
    """Tell whether ``uri`` names a tracking server."""
    return uri.lower().startswith(("http://", "https://"))


def sqlite_path(uri: str) -> Path | None:
    """Return the absolute path of the database that a ``sqlite:///`` URI names, else None."""
    match = re.match(r"sqlite(?:\+\w+)?:///([^?]+)", uri)
    return Path(unquote(match[1])).absolute() if match else None


def artifact_location(uri: str) -> str | None:
    """Return where a new experiment keeps its files: beside a sqlite database, else None.

    None leaves the choice to the server (http) or to MLflow.
    """
    database = sqlite_path(uri)
    return (database.parent / "mlartifacts").as_uri() if database else None


def open_client(uri: str) -> MlflowClient:
    """Return a client for ``uri`` that prints nothing, creating a sqlite database if need be.

    Raises:
        TrackingError: the store cannot be opened.
    """
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # we tell, and retry
    from mlflow import MlflowClient

    database = sqlite_path(uri)
    if database:
        database.parent.mkdir(parents=True, exist_ok=True)
    try:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except Exception as error:
        raise TrackingError(f"cannot open the tracking store: {describe(error, uri)}") from error


def use_write_ahead_log(uri: str) -> None:
    """Let readers of a sqlite store never block its writer, and commit with one sync, not several.

    The mode is kept in the database. Where it cannot be had, the store works as before.
    See https://www.sqlite.org/wal.html.
    """
    database = sqlite_path(uri)
    if database is None:
        return
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(database)) as store:
        store.execute("PRAGMA journal_mode=WAL")


def check_server(uri: str) -> None:
    """Return if the tracking server behind an ``http(s)://`` URI lets us in; other URIs pass.

    Raises:
        TrackingError: no healthy answer within 5 seconds, or the environment's credentials are
            not enough. Passwords are masked.
    """
    if not is_http(uri):
        return
    import requests

    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=_ANSWER_S)
    except requests.Timeout:
        reason = f"did not answer within {_ANSWER_S:g} s"
    except requests.RequestException as error:
        reason = f"cannot be reached ({type(error).__name__})"
    else:
        if answer.ok:
            _check_credentials(uri)
            return
        reason = f"answered {answer.status_code} to GET /health"
    raise TrackingError(
        f"the tracking server {mask_uri(uri)} {reason}; "
        "start it, or set tracking.uri to null to use a local database"
    )


def _check_credentials(uri: str) -> None:
    """A server that asks for a password answers GET /health without one."""
    from mlflow.exceptions import MlflowException

    try:
        open_client(uri).search_experiments(max_results=1)
    except MlflowException as error:
        if error.error_code not in {"UNAUTHENTICATED", "PERMISSION_DENIED"}:
            raise TrackingError(describe(error, uri)) from None
        given = os.environ.get("MLFLOW_TRACKING_USERNAME")
        who = f"the password of {given}" if given else "a sweep without a user"
        raise TrackingError(
            f"the tracking server {mask_uri(uri)} refuses {who}; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)"
        ) from None


def is_temporary(error: BaseException) -> bool:
    """Tell whether the same write may succeed later (server away, database locked, disk full)."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return getattr(error, "error_code", "") not in _PERMANENT
    return isinstance(error, OSError) or "sqlalchemy" in type(error).__module__


def describe(error: BaseException, uri: str = "") -> str:
    """Return an error in one line of at most 300 characters, without passwords."""
    text = " ".join(str(error).split()) or type(error).__name__
    if uri:
        text = text.replace(uri, mask_uri(uri)).replace("<database_uri>", mask_uri(uri))
    return mask_uri(text)[:300]
