"""Where a sweep's records are, for the commands that read them."""

from __future__ import annotations

from orchestrator.errors import UserError
from orchestrator.home import Home
from orchestrator.records import TrialRecord
from orchestrator.tracking_reader import SweepInfo, find_sweep, records_of
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

    Raises:
        UserError: no such sweep, or the store does not answer.
    """
    uri = store_of(tracking_uri, sweep)
    return uri, find_sweep(uri, sweep)


def store_of(tracking_uri: str | None, sweep: str | None) -> str:
    """Return the tracking URI: as told, else as the sweep was started here, else the home's.

    Raises:
        UserError: there is no store, or it does not answer.
    """
    home = Home.from_environment()
    known = home.tracking_uri_of(sweep) if sweep else None
    uri = tracking_uri or known or home.mlflow_uri
    if uri == home.mlflow_uri and not (home.root / "mlflow.db").exists():
        raise UserError(f"no sweep has run in home folder {home.root}; set PAS_HOME to its home")
    try:
        check_server(uri)
    except TrackingError as error:
        raise UserError(str(error)) from None
    return uri
