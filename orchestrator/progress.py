"""What a person sees while a sweep runs: a live board on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.cells import Cell
from orchestrator.records import TrialRecord, controls_among, without_controls
from orchestrator.scores import figure, label
from orchestrator.tables import best_of
from pas_trainer import EpochReport

_PHASE_STYLE = {
    "pretrain": "magenta",
    "search": "cyan",
    "finetune": "green",
    "control": "yellow",
}


class ProgressBoard:
    """Cells with their best score above, running trials with phase and score below.

    Implements :class:`orchestrator.sweep_records.Watcher`. Use as a context manager; writes to the
    given console (stderr), so that stdout stays free for results. ``log`` gets every line in any
    case.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        cells: Sequence[Cell],
        per_cell: int,
        num_controls: int = 0,
        log: Callable[[str], None] = lambda _line: None,
        metric: str = "accuracy",
    ) -> None:
        self._metric = metric
        self._console, self._title = console, title
        self._cells, self._per_cell = list(cells), per_cell
        self._num_controls, self._log = num_controls, log
        self._records: dict[str, TrialRecord] = {}
        self._running: dict[str, dict[str, Any]] = {}
        self._supernet: EpochReport | None = None
        self._waiting = ""
        self._begun = time.monotonic()
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=4, transient=False
        )

    def __enter__(self) -> ProgressBoard:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def waiting(self, sentence: str) -> None:
        """Show what is waited for; an empty sentence ends that."""
        self._waiting = sentence
        if sentence:
            self._say(sentence)

    def supernet_progress(self, report: EpochReport) -> None:
        """Show an epoch of the supernet's training."""
        self._supernet = report
        self._say(f"supernet: epoch {report.epoch}/{report.num_epochs} {self._score(report.score)}")

    def trial_started(self, record: TrialRecord) -> None:
        """Show a trial as running."""
        self._records[record.trial_id] = record
        self._running.setdefault(record.trial_id, {})
        self._say(f"{record.trial_id}: started")

    def trial_progress(self, trial_id: str, progress: dict[str, Any]) -> None:
        """Show a trial's epoch."""
        self._running[trial_id] = progress
        self._say(
            f"{trial_id}: {progress['phase']} {progress['epoch']}/{progress['num_epochs']} "
            f"{self._score(progress['score'])} macs_ratio {progress['macs_ratio']:.3f}"
        )

    def trial_ended(self, record: TrialRecord) -> None:
        """Show a trial's outcome."""
        self._running.pop(record.trial_id, None)
        self._records[record.trial_id] = record
        outcome = f"{record.trial_id}: {record.status}"
        if record.score is not None:
            outcome += f" {self._score(record.score)} at {record.macs_ratio:.4f} of the MACs"
        if record.error:
            outcome += f" ({record.error})"
        self._say(outcome)

    def _score(self, value: float) -> str:
        return f"{label(self._metric)} {figure(self._metric, value)}"

    def _say(self, line: str) -> None:
        self._log(line)
        if not self._console.is_terminal:
            self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _render(self) -> RenderableType:
        ended = [r for r in self._records.values() if r.status != "RUNNING"]
        total = len(self._cells) * self._per_cell
        counts = f"{len(without_controls(ended))}/{total} trials"
        if self._num_controls:
            counts += f"   {len(controls_among(ended))}/{self._num_controls} controls"
        elapsed = time.monotonic() - self._begun
        head = Text.assemble(
            (self._title, "bold"),
            f"   {counts}   {int(elapsed) // 60}:{int(elapsed) % 60:02d}",
        )
        parts: list[RenderableType] = [head]
        if self._waiting:
            parts.append(Text(self._waiting, style="yellow"))
        if self._supernet is not None:
            parts.append(self._supernet_line(self._supernet))
        parts.append(self._cell_table())
        if self._running:
            parts.append(self._running_table())
        return Group(*parts)

    def _supernet_line(self, report: EpochReport) -> RenderableType:
        row = Table.grid(padding=(0, 2))
        row.add_row(
            Text("supernet", style=_PHASE_STYLE["pretrain"]),
            ProgressBar(total=report.num_epochs, completed=report.epoch, width=24),
            f"epoch {report.epoch}/{report.num_epochs}   {self._score(report.score)}",
        )
        return row

    def _cell_table(self) -> RenderableType:
        budgets = list(dict.fromkeys(cell.budget for cell in self._cells))
        strengths = list(dict.fromkeys(cell.strength for cell in self._cells))
        table = Table()
        table.add_column("budget", justify="right")
        for strength in strengths:
            table.add_column(f"strength {strength:g}", justify="center", min_width=16)
        for budget in budgets:
            table.add_row(f"{budget:g}", *(self._cell(Cell(budget, s)) for s in strengths))
        return table

    def _cell(self, cell: Cell) -> Text:
        trials = without_controls(self._records.values())
        mine = [r for r in trials if (r.budget, r.strength) == _key(cell)]
        best = best_of(mine)
        text = Text("[")
        for number in range(self._per_cell):
            status = next((r.status for r in mine if r.number == number), None)
            text.append(*_MARKS.get(status or "", ("·", "dim")))
        text.append("]")
        if best is not None:
            text.append(f" {figure(self._metric, best.score or 0.0)}", style="bold")
        return text

    def _running_table(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for trial_id, progress in sorted(self._running.items()):
            if not progress:
                table.add_row(trial_id, Text("starting", style="dim"))
                continue
            phase = progress["phase"]
            table.add_row(
                trial_id,
                Text(phase, style=_PHASE_STYLE[phase]),
                ProgressBar(total=progress["num_epochs"], completed=progress["epoch"], width=24),
                f"{progress['epoch']}/{progress['num_epochs']}",
                self._score(progress["score"]),
                f"macs {progress['macs_ratio']:.3f}",
            )
        return table


_MARKS = {
    "RUNNING": ("▶", "cyan"),
    "FINISHED": ("■", "green"),
    "PRUNED": ("□", "yellow"),
    "FAILED": ("✗", "red"),
}


def _key(cell: Cell) -> tuple[float, float]:
    return cell.budget, cell.strength
