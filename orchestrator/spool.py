"""Epochs that the tracking store may not have yet, kept in their trial's folder.

The store may be away for hours, and the driver die meanwhile. What a trial has found is in its
result file; its curves are here, line by line, until they have been delivered.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FILE = "epochs.jsonl"

SEARCH_WIDTHS = "search_widths.json"
"""Artifact of a trial's run, :func:`widths_by_epoch`."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of a trial.

    Attributes:
        step: counts on through the trial's phases.
        time_ms: when it was reported, milliseconds since 1970.
        metrics: by name.
        widths: open channels by group, while they are searched.
    """

    step: int
    time_ms: int
    metrics: Mapping[str, float]
    widths: Mapping[str, int] = field(default_factory=dict)


def keep_epoch(folder: Path, epoch: Epoch) -> None:
    """Append an epoch to what is kept of a trial."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":  # a full disk cut the last one short
                file.write(b"\n")
        file.write(json.dumps(asdict(epoch)).encode() + b"\n")


def kept_epochs(folder: Path) -> list[Epoch]:
    """Return what is kept, in order; lines that a kill or a full disk cut short are left out."""
    path = folder / FILE
    if not path.exists():
        return []
    epochs = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            epochs.append(Epoch(**json.loads(line)))
    return epochs


def widths_by_epoch(epochs: Sequence[Epoch]) -> dict[str, Any]:
    """Return how widths moved, as is kept with a trial's run: its steps, and a list per group.

    Nothing where no widths were searched.
    """
    searched = {epoch.step: epoch.widths for epoch in epochs if epoch.widths}
    steps = sorted(searched)
    groups = searched[steps[0]] if steps else ()
    widths = {name: [searched[step][name] for step in steps] for name in groups}
    return {"epochs": steps, "widths": widths} if steps else {}


def drop_epochs(folder: Path) -> None:
    """Forget a trial's epochs: they have been delivered."""
    (folder / FILE).unlink(missing_ok=True)
