"""The database of Optuna's studies: checked before compute is spent, opened, errors told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from orchestrator.errors import UserError
from orchestrator.tracking_server import mask_uri

_EXTRA = "pip install 'pas-orchestrator[postgres]'"
_EXAMPLE = "postgresql+psycopg2://USER:PASSWORD@HOST/DATABASE"


class StudyStorageError(OSError):
    """The storage of the studies cannot be read or written (a full disk, a lost database)."""


@contextmanager
def storage_errors() -> Iterator[None]:
    """Tell what Optuna and SQLAlchemy raise in one sentence.

    Raises:
        StudyStorageError: in place of theirs.
    """
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, ImportError) as error:
        cause = error.__cause__ or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise StudyStorageError(f"the Optuna storage failed: {reason}") from error


def check_driver(url: str) -> None:
    """Check that a storage's address can be read and its driver is installed; it is not opened.

    Args:
        url: SQLAlchemy URL; what is told of it holds no password.

    Raises:
        UserError: it is no such URL, or names a database or a driver that is not here.
    """
    try:
        known = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        raise UserError(
            f"PAS_OPTUNA_URL is no address of a database; write it like {_EXAMPLE}"
        ) from None
    name = known.drivername
    try:
        known.get_dialect().import_dbapi()
    except NoSuchModuleError:
        raise UserError(
            f"PAS_OPTUNA_URL begins with {name}://, which SQLAlchemy does not know; write it like "
            f"{_EXAMPLE}"
        ) from None
    except ImportError as error:
        module = error.name or name
        way = f"pip install {module}"
        if known.get_backend_name() == "postgresql":
            way = _EXTRA if module == "psycopg2" else f"{way}, or {_EXTRA} and write {_EXAMPLE}"
        raise UserError(
            f"PAS_OPTUNA_URL begins with {name}://, whose driver {module} is not installed; {way}"
        ) from None


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Open the storage at a URL; to be called within :func:`storage_errors`.

    Raises:
        StudyStorageError: its tables are those of another version of Optuna.
    """
    try:
        # A server may have dropped a connection that has been idle through a long epoch.
        return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except RuntimeError as error:  # how Optuna refuses tables of another version
        known = mask_uri(url)
        raise StudyStorageError(
            f"the studies in {known} are those of another version of Optuna; "
            f"back them up, then run: optuna storage upgrade --storage {known}"
        ) from error
