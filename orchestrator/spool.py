"""Epochs that the tracking store may not have yet, kept in their trial's folder.

The store may be away for hours, and the driver die meanwhile. What a trial has found is in its
result file; its curves are here, line by line, until they have been delivered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "epochs.jsonl"


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of a trial.

    Attributes:
        step: counts on through the trial's phases.
        time_ms: when it was reported, milliseconds since 1970.
        metrics: by name.
    """

    step: int
    time_ms: int
    metrics: Mapping[str, float]


def keep_epoch(folder: Path, epoch: Epoch) -> None:
    """Append an epoch to what is kept of a trial."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(epoch)) + "\n")


def kept_epochs(folder: Path) -> list[Epoch]:
    """Return what is kept, in order; a last line that a kill cut short is left out."""
    path = folder / FILE
    if not path.exists():
        return []
    whole, _, _torn = path.read_text(encoding="utf-8").rpartition("\n")
    return [Epoch(**json.loads(line)) for line in whole.splitlines()]


def drop_epochs(folder: Path) -> None:
    """Forget a trial's epochs: they have been delivered."""
    (folder / FILE).unlink(missing_ok=True)
