"""Where a sweep's records are, for the commands that read them."""

from __future__ import annotations

import os
from contextlib import suppress

from orchestrator.errors import UserError
from orchestrator.home import Home
from orchestrator.records import TrialRecord
from orchestrator.tracking_reader import SweepInfo, UnknownSweepError, find_sweep, records_of
from orchestrator.tracking_server import TrackingError, check_server


def load_sweep_records(sweep: str, tracking_uri: str | None) -> tuple[SweepInfo, list[TrialRecord]]:
    """Return what the tracking store holds of a sweep (id or name) and its trials.

    Raises:
        UserError: no such sweep, or the store does not answer.
    """
    uri, info = find_recorded_sweep(sweep, tracking_uri)
    return info, records_of(uri, info)


def find_recorded_sweep(sweep: str, tracking_uri: str | None) -> tuple[str, SweepInfo]:
    """Return the tracking store of a sweep (id or name) and what it holds of the sweep itself.

    The latest of a name is the one that was run here last; of those run elsewhere, the one that
    was begun last.

    Raises:
        UserError: no such sweep, or the store does not answer.
    """
    uri, home = store_of(tracking_uri, sweep), Home.from_environment()
    path = home.record_of(sweep)
    if path is not None and uri == home.tracking_uri_of(sweep):
        with suppress(UnknownSweepError):  # it has not got that far
            return uri, find_sweep(uri, path.parent.name)
    try:
        return uri, find_sweep(uri, sweep)
    except UnknownSweepError as error:
        raise UnknownSweepError(f"{error}{_by_variable(uri)}") from None


def store_of(tracking_uri: str | None, sweep: str | None) -> str:
    """Return the tracking URI: as told, else as the sweep was started here, else the home's.

    Raises:
        UserError: there is no store, or it does not answer.
    """
    home = Home.from_environment()
    known = home.tracking_uri_of(sweep) if sweep else None
    uri = tracking_uri or known or home.mlflow_uri
    if not has_store(uri):
        raise UserError(f"no sweep has run in home folder {home.root}; set PAS_HOME to its home")
    try:
        check_server(uri)
    except TrackingError as error:
        raise UserError(f"{error}{_by_variable(uri)}") from None
    return uri


def has_store(tracking_uri: str | None) -> bool:
    """Whether there can be a tracking store: the home folder has none before its first sweep."""
    home = Home.from_environment()
    is_ours = not tracking_uri or tracking_uri == home.mlflow_uri
    return not is_ours or (home.root / "mlflow.db").exists()


def _by_variable(uri: str) -> str:
    """Return that an environment variable named the store, which may hold credentials, if so."""
    named = os.environ.get("MLFLOW_TRACKING_URI") == uri
    return " (in the store that MLFLOW_TRACKING_URI names)" if named else ""
