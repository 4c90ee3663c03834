"""Tables of a model's gates and of its history, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from deploy.gates import GateResult
from orchestrator.model_history import History
from orchestrator.scores import figure, label

_IN_FORCE = "[yellow]★ in force[/yellow]"
_STATES = {"in force": _IN_FORCE, "past": ""}


def gates_table(gates: Sequence[GateResult], title: str) -> Table:
    """Return one row per gate."""
    table = Table(title=escape(title), title_justify="left")
    table.add_column("gate")
    table.add_column("")
    for name in ("measured", "required"):
        table.add_column(name, justify="right")
    table.add_column("what was found", overflow="fold")
    for gate in gates:
        verdict = "[green]passed[/green]" if gate.passed else "[red]refused[/red]"
        if gate.passed and gate.required is None:
            verdict = "[dim]reported[/dim]"
        numbers = (gate.measured, gate.required)
        table.add_row(gate.name, verdict, *map(_number, numbers), escape(gate.sentence))
    return table


def history_table(history: History) -> Table:
    """Return one row per move, the oldest first; a star marks those in force."""
    table = Table(title=escape(history.model_name), title_justify="left")
    for name in ("when, who", "alias", "from", "to", "kind", "sweep, trial", "score"):
        table.add_column(name, overflow="fold")
    table.add_column("why", overflow="fold", min_width=10)
    for move, state in history.moves:
        score = figure(move.metric, move.score)
        if move.metric != "accuracy" and score:
            score = f"{label(move.metric)} {score}"
        table.add_row(
            f"{move.time.astimezone():%Y-%m-%d %H:%M}\n{escape(move.who)}",
            f"{move.alias}\n{_STATES.get(state, state)}",
            _version(move.from_version),
            _version(move.to_version),
            move.kind,
            escape(f"{move.sweep_id}\n{move.trial_id}"),
            score,
            escape(move.why),
        )
    for alias, left in history.moved_by_others.items():
        to = _version(history.aliases.get(alias)) or "none"
        table.add_row("since then", f"{alias}\n{_IN_FORCE}", _version(left), to, "by others")
    return table


def _version(version: int | None) -> str:
    return "" if version is None else str(version)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
