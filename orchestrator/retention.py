"""Which networks' weights are kept: those of the front's members and of controls.

A trial that is not on the front, or is pushed off it, is known by its result and its architecture
alone; it never comes back, since a front only grows better.
"""

from __future__ import annotations

from typing import Literal

from orchestrator.pareto import mark_front
from orchestrator.records import TrialRecord
from orchestrator.sweep_files import HomeFiles


class Retention:
    """Drops weights as soon as they are no longer worth keeping.

    Args:
        files: of the sweep.
        keep: ``front``, or ``all``: nothing is dropped.
        resource: what the sweep limits.
    """

    def __init__(self, files: HomeFiles, keep: Literal["front", "all"], resource: str) -> None:
        self._files, self._keep, self._resource = files, keep, resource
        self._front: list[TrialRecord] = []
        self._others: set[str] = set()
        self._known: set[str] = set()
        self._is_tidy = False

    def ended(self, record: TrialRecord) -> None:
        """A trial has ended; call once for each, before :meth:`tidy` for those of earlier runs."""
        self._known.add(record.trial_id)
        if record.status != "FINISHED":
            return
        if record.control is not None or self._keep == "all":
            self._others.add(record.trial_id)
            return
        self._front.append(record)
        if self._is_tidy:
            for beaten in self._push_off():
                self._files.drop_weights(beaten.trial_id)

    def tidy(self) -> None:
        """Delete whatever trials that have ended need no longer, by what is there."""
        self._push_off()
        keeps = {r.trial_id for r in self._front} | self._others
        # Nothing was told of controls that the sweep file asks for no more, nor of what others ran.
        self._files.tidy(lambda id_: id_ in keeps or id_ not in self._known)
        self._is_tidy = True

    def _push_off(self) -> list[TrialRecord]:
        """Keep the front alone, and return the others."""
        # Whoever is beaten by one that has left the front is beaten by one that is on it.
        marked = mark_front(self._front, self._resource)
        self._front = [record for record in marked if record.on_front]
        return [record for record in marked if not record.on_front]
