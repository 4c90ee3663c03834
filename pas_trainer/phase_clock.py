"""How long each phase of a trial takes, over all of its starts."""

from __future__ import annotations

import time
from collections.abc import Mapping


class PhaseClock:
    """Wall time of this process by phase, in seconds. Runs from the moment it is made.

    Attributes:
        phase: what the time since the last :meth:`lap` is counted as. Getting ready counts as the
            first phase that is set, measuring as the last.
    """

    def __init__(self, phase: str = "") -> None:
        self.phase = phase
        self._seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def resume(self, seconds: Mapping[str, float]) -> None:
        """Add what an earlier start took until its checkpoint."""
        for phase, before in seconds.items():
            self._seconds[phase] = self._seconds.get(phase, 0.0) + before

    def lap(self) -> dict[str, float]:
        """Return the seconds of each phase until now."""
        now = time.perf_counter()
        self._seconds[self.phase] = self._seconds.get(self.phase, 0.0) + now - self._since
        self._since = now
        return dict(self._seconds)
