"""How long trials hold their slots: what a sweep uses, measured by its driver.

That includes what failures undid and the seconds between a trial's training and the next trial.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.accounting import price_of
from orchestrator.errors import UserError
from orchestrator.home import write_json
from orchestrator.sections import PriceConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What a sweep has used, over all starts of its driver, in seconds.

    Attributes:
        slot_seconds: slots times the time since the first trial of each start.
        held_seconds: for which trials held one of them.
        lost_seconds: of these, what is run again: from a trial's last report until its worker,
            node or driver was lost.
        pretrain_seconds: training of the supernet, if this sweep trained it.
        cpu_seconds, gpu_seconds: booked by trials, and by the supernet's training.
    """

    slot_seconds: float = 0.0
    held_seconds: float = 0.0
    lost_seconds: float = 0.0
    pretrain_seconds: float = 0.0
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0

    def plus(self, **more: float) -> Usage:
        """Return it with so much more."""
        sums = {name: getattr(self, name) + value for name, value in more.items()}
        return dataclasses.replace(self, **sums)

    def totals(self, prices: PriceConfig | None) -> dict[str, float]:
        """Return those of :data:`orchestrator.accounting.TOTALS` that follow from it."""
        if not self.cpu_seconds:
            return {}  # of a version that did not count, or nothing has run
        names = ("cpu_seconds", "gpu_seconds", "pretrain_seconds", "lost_seconds")
        totals: dict[str, float] = {name: getattr(self, name) for name in names}
        if self.slot_seconds:
            totals["utilization"] = self.held_seconds / self.slot_seconds
        if prices is not None:
            totals["price"] = price_of(self.cpu_seconds, self.gpu_seconds, prices)
        return totals


def keep_usage(path: Path, usage: Usage) -> None:
    """Write the file that :func:`kept_usage` reads, in one step."""
    write_json(path, dataclasses.asdict(usage))


def kept_usage(path: Path) -> Usage:
    """Return what earlier starts of the driver used; nothing if there is no such file.

    Raises:
        UserError: it is damaged.
    """
    return parse_usage(path.read_bytes(), str(path)) if path.exists() else Usage()


def parse_usage(content: bytes, where: str) -> Usage:
    """As :func:`kept_usage`, of a file or an object; ``where`` is its address, for the sentence."""
    try:
        return Usage(**json.loads(content))
    except (ValueError, TypeError, RecursionError):
        raise UserError(
            f"{where} is damaged: it does not hold what a sweep has used; restore it, or "
            "remove it, and hours are counted from now on"
        ) from None


class SlotMeter:
    """Measures how long trials hold their slots while a driver runs.

    Args:
        before: what earlier starts used.
        cpus, gpus: what a trial books.
        now: a clock, in seconds.

    Attributes:
        num_slots: trials that the cluster has room for at present.
    """

    def __init__(
        self,
        before: Usage,
        cpus: float,
        gpus: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._usage, self._cpus, self._gpus, self._now = before, cpus, gpus, now
        self._held: dict[str, tuple[float, float]] = {}  # trial -> since when, last report
        self._counted: float | None = None
        self.num_slots = 0

    def pretrained(self, seconds: float, cpus: float, gpus: float) -> None:
        """Add the training of the supernet, with what it booked."""
        self._usage = self._usage.plus(
            pretrain_seconds=seconds, cpu_seconds=cpus * seconds, gpu_seconds=gpus * seconds
        )

    def set_slots(self, num_slots: int) -> None:
        """Take note that the cluster has room for so many trials from now on."""
        if self._held:
            self._count_slots()
        self.num_slots = num_slots

    def started(self, trial_id: str) -> None:
        """Note that a trial has got a slot."""
        self.ended(trial_id, lost=True)  # should its end not have been seen
        now = self._count_slots()
        self._held[trial_id] = (now, now)

    def reported(self, trial_id: str) -> None:
        """Note that an epoch is done and will not be run again."""
        if trial_id in self._held:
            self._held[trial_id] = (self._held[trial_id][0], self._now())

    def ended(self, trial_id: str, *, lost: bool = False) -> None:
        """Note that a trial has left its slot; ``lost``: it will go on from its last report."""
        if trial_id in self._held:
            now = self._count_slots()
            self._usage = self._with_held(self._usage, self._held.pop(trial_id), now, lost=lost)

    def usage(self) -> Usage:
        """Return what has been used, as if the driver were killed now.

        While no trial runs, the slots count until the last one ended.
        """
        if not self._held:
            return self._usage
        now = self._count_slots()
        usage = self._usage
        for held in self._held.values():
            usage = self._with_held(usage, held, now, lost=True)
        return usage

    def _count_slots(self) -> float:
        """Count the slots until now; no fewer than are held, if the cluster has just grown."""
        now = self._now()
        slots = max(self.num_slots, len(self._held))
        if self._counted is not None:
            self._usage = self._usage.plus(slot_seconds=slots * (now - self._counted))
        self._counted = now
        return now

    def _with_held(
        self, usage: Usage, held: tuple[float, float], now: float, *, lost: bool
    ) -> Usage:
        since, reported = held
        seconds = now - since
        return usage.plus(
            held_seconds=seconds,
            lost_seconds=now - reported if lost else 0.0,
            cpu_seconds=self._cpus * seconds,
            gpu_seconds=self._gpus * seconds,
        )
