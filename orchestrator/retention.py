"""Which networks' weights are kept: those of the front's members and of controls.

A trial that is not on the front, or is pushed off it, is known by its result and its architecture
alone; it never comes back, since a front only grows better.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from orchestrator.records import TrialRecord
from orchestrator.sweep_files import HomeFiles


class Retention:
    """Drops weights as soon as they are no longer worth keeping.

    Args:
        files: of the sweep.
        keep: ``front``, or ``all``: nothing is dropped.
    """

    def __init__(self, files: HomeFiles, keep: Literal["front", "all"]) -> None:
        self._files, self._keep = files, keep
        self._kept: set[str] = set()

    def ended(self, record: TrialRecord) -> None:
        """A trial has ended, and may have left weights."""
        if record.status == "FINISHED" and record.control is None:
            self._kept.add(record.trial_id)

    def apply(self, records: Iterable[TrialRecord]) -> None:
        """Drop the weights of the trials that are not on the front.

        Args:
            records: all that have ended, front marked.
        """
        if self._keep == "all":
            return
        front = {record.trial_id for record in records if record.on_front}
        for trial_id in self._kept - front:
            self._files.drop_weights(trial_id)
        self._kept &= front

    def tidy(self, records: Iterable[TrialRecord]) -> None:
        """Delete whatever the trials that have ended need no longer, by what is there.

        Args:
            records: as above.
        """
        keeps = {r.trial_id for r in records if self._is_kept(r)}
        self._files.tidy(keeps.__contains__)
        self._kept &= keeps

    def _is_kept(self, record: TrialRecord) -> bool:
        if record.status != "FINISHED":
            return False
        return record.on_front or record.control is not None or self._keep == "all"
