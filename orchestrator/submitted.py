"""What a cluster's job server tells of a job that runs a sweep. Imports no Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

_SWEEP_ID, _NAME = "pas.sweep_id", "pas.name"
_NOT_FOUND = 127, "the cluster has no 'pas': use an image or environment that has it, or --code"
_ENDED = {"SUCCEEDED": 0, "FAILED": 1, "STOPPED": 130}


@dataclass(frozen=True, slots=True)
class SweepJob:
    """A submitted job that runs a sweep.

    Attributes:
        job_id: Ray's submission id, ``pas-SWEEP_ID-NUMBER``.
        sweep_id, name: of the sweep.
        state: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        exit_code: of ``pas`` once it has ended by itself.
        start_time_ms, end_time_ms: milliseconds since 1970.
        message: the last line of what a failed job said.
    """

    job_id: str
    sweep_id: str
    name: str
    state: str
    exit_code: int | None
    start_time_ms: int | None
    end_time_ms: int | None
    message: str

    @property
    def number(self) -> int:
        """Which submission of its sweep it is, from 1."""
        return int(self.job_id.rpartition("-")[2])

    @property
    def outcome(self) -> int:
        """Exit code once it has ended: that of ``pas``, where it got so far."""
        return _ENDED[self.state] if self.exit_code is None else self.exit_code

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.state in _ENDED

    def to_json(self) -> dict[str, Any]:
        """Return its fields as JSON has them."""
        return asdict(self)


def metadata_of(sweep_id: str, name: str) -> dict[str, str]:
    """Return what is kept with a job, from which :func:`sweep_job` reads its sweep."""
    return {_SWEEP_ID: sweep_id, _NAME: name}


def sweep_job(info: Any) -> SweepJob | None:
    """Return a job of Ray's list (``JobDetails``) as ours; ``None`` if it runs no sweep."""
    metadata: Mapping[str, str] = info.metadata or {}
    if info.submission_id is None or _SWEEP_ID not in metadata:
        return None
    lines = (info.message or "").strip().splitlines() if info.status == "FAILED" else []
    if info.driver_exit_code == _NOT_FOUND[0]:
        lines = [_NOT_FOUND[1]]
    return SweepJob(
        job_id=info.submission_id,
        sweep_id=metadata[_SWEEP_ID],
        name=metadata.get(_NAME, metadata[_SWEEP_ID]),
        state=info.status.value,
        exit_code=info.driver_exit_code,
        start_time_ms=info.start_time,
        end_time_ms=info.end_time,
        message=lines[-1] if lines else "",
    )
