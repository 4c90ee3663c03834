"""The queue between a sweep and its tracking store, and the one thread that empties it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from orchestrator.records import TrialRecord
from orchestrator.tracking_server import describe, is_temporary
from orchestrator.tracking_sweep import SweepRun
from orchestrator.tracking_writer import SweepWriter, TrialWrites

SweepStatus = Literal["FINISHED", "FAILED", "KILLED"]

BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0)
_LINGER_S = 0.2  # what arrives together is written together
_FRONT_EVERY_S = 3.0

_log = logging.getLogger(__name__)


class WriteQueue:
    """Writes wait here, merged per trial; a daemon thread delivers them and retries.

    Args:
        uri: tracking store, for messages.
        sweep: writes the sweep's run.
        writer: writes the trials' runs.
        delivered: called, from the thread, with the id of each ended trial once all of it is there.

    Attributes:
        refused: writes that failed for good, one sentence each.
        last_error: why the newest attempt failed, if it did.
    """

    def __init__(
        self, uri: str, sweep: SweepRun, writer: SweepWriter, delivered: Callable[[str], None]
    ) -> None:
        self._uri, self._sweep, self._writer = uri, sweep, writer
        self._delivered = delivered
        self._changed = threading.Condition()
        self._trials: dict[str, TrialWrites] = {}
        self._values: dict[str, float] = {}
        self._front: tuple[Sequence[TrialRecord], str, float, Sequence[float]] | None = None
        self._front_due = 0.0
        self._drawn: Sequence[TrialRecord] | None = None
        self._closing: SweepStatus | None = None
        self._abandoned = False
        self.refused: list[str] = []
        self.last_error = ""
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def put_trial(self, writes: TrialWrites) -> None:
        """Queue what is to be written of a trial, after what is queued of it."""
        key = writes.record.trial_id
        with self._changed:
            before = self._trials.get(key)
            self._trials[key] = before.followed_by(writes) if before else writes
            self._changed.notify()

    def put_front(
        self,
        records: Sequence[TrialRecord],
        resource: str,
        cost: float,
        limits: Sequence[float] = (),
    ) -> None:
        """Queue the front, in place of the one that is queued."""
        with self._changed:
            self._front = (records, resource, cost, limits)
            self._changed.notify()

    def put_values(self, values: Mapping[str, float]) -> None:
        """Queue single values of the sweep."""
        with self._changed:
            self._values |= values
            self._changed.notify()

    def close(self, status: SweepStatus, timeout_s: float) -> int | None:
        """Deliver everything, end all runs, stop the thread.

        Returns:
            None when done, otherwise the number of trials still queued after ``timeout_s``.
        """
        with self._changed:
            self._closing = status
            self._changed.notify()
        self._thread.join(timeout_s)
        self._abandoned = True
        return len(self._trials) if self._thread.is_alive() else None

    def _work(self) -> None:
        failures = 0
        while not self._abandoned:
            with self._changed:
                self._wait_for_work()
            if self._closing is None:
                time.sleep(_LINGER_S)
            try:
                done = self._write_all()
            except Exception as error:  # only what may succeed later comes here
                self.last_error = describe(error, self._uri)
                if failures == 0:
                    _log.warning("tracking store not available, will retry: %s", self.last_error)
                pause = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
                failures += 1
                self._pause(pause)
                continue
            if failures:
                _log.warning("tracking store available again")
            failures = 0
            if done:
                return

    def _wait_for_work(self) -> None:
        while not (self._trials or self._values or self._closing or self._abandoned):
            wait = self._front_due - time.monotonic() if self._front else None
            if wait is not None and wait <= 0:
                return
            self._changed.wait(wait)

    def _pause(self, seconds: float) -> None:
        """Back off; closing cuts it short."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._abandoned:
            time.sleep(0.1)
            if self._closing and time.monotonic() > end - seconds + 0.5:
                return

    def _write_all(self) -> bool:
        """Write what is queued; return True after the sweep's run has been closed."""
        with self._changed:
            closing = self._closing  # all that was handed over before is queued by now
            trials, self._trials = self._trials, {}
            values, self._values = self._values, {}
        try:
            while trials and not self._abandoned:
                key, writes = next(iter(trials.items()))
                is_written = self._attempt(self._writer.write_trial, writes)
                del trials[key]
                if is_written and writes.record.status != "RUNNING":
                    self._delivered(key)
            if values:
                self._attempt(self._sweep.write_values, values)
                values = {}
        finally:
            self._put_back(trials, values)
        if self._front and (closing or time.monotonic() >= self._front_due):
            self._draw_front()
        if closing is None or self._abandoned:
            return False
        if closing == "FINISHED" and self._drawn is not None:  # else the front is not final
            self._attempt(self._writer.write_front, self._drawn)
        self._attempt(self._writer.close_children)
        self._attempt(self._sweep.close, closing)
        return True

    def _draw_front(self) -> None:
        with self._changed:
            drawn = self._front
        assert drawn is not None
        started = time.monotonic()
        self._attempt(self._sweep.write_front, *drawn, self._writer.run_ids)
        self._drawn = drawn[0]
        now = time.monotonic()
        self._front_due = now + max(_FRONT_EVERY_S, 10 * (now - started))
        with self._changed:
            if self._front is drawn:
                self._front = None

    def _put_back(self, trials: dict[str, TrialWrites], values: dict[str, float]) -> None:
        with self._changed:
            for key, newer in self._trials.items():
                trials[key] = trials[key].followed_by(newer) if key in trials else newer
            self._trials = trials
            self._values = values | self._values

    def _attempt(self, write: Callable[..., object], *args: object) -> bool:
        """Write; raise what may succeed later, note what never will. Return whether it is done."""
        try:
            write(*args)
        except Exception as error:
            if is_temporary(error):
                raise
            _log.exception("a write to the tracking store failed for good")
            self.refused.append(describe(error, self._uri))
            return False
        return True
