"""Tables for the terminal: budgets x strengths, the front, the plan."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from rich.markup import escape
from rich.table import Table

from orchestrator.accounting import amount
from orchestrator.records import CONTROL_NAMES, TrialRecord, controls_among, without_controls
from orchestrator.scores import count_text, figure, label
from orchestrator.submitted import SweepJob


def compare_table(
    records: Sequence[TrialRecord],
    resource: str,
    title: str,
    supernet: tuple[float | None, float | None] = (None, None),
) -> Table:
    """Return budgets (rows) x strengths (columns): the best finished trial of each cell.

    A cell shows the score on the validation and the test split and the cost in the sweep's resource
    (MACs as a share of the supernet's); a star marks a member of the front. Controls have columns
    of their own; the supernet that was trained on stands beside the budget whose compute it had.
    ``supernet`` gives the shared supernet's scores on these splits.
    """
    if supernet[0] is not None:
        title += f"   supernet: {' '.join(_supernet_texts(records, supernet))}"
    budgets = sorted({r.budget for r in records}, reverse=True)
    trials, present = without_controls(records), {r.control for r in records}
    strengths = sorted({r.strength for r in trials})
    kinds = [kind for kind in CONTROL_NAMES if kind in present]
    caption = _CAPTION.format(score=_label(records), cost=_COSTS[resource])
    caption += _CONTROL_CAPTION if kinds else ""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column(f"{resource} limit", justify="right")
    for strength in strengths:
        table.add_column(f"strength {strength:g}", justify="center")
    for kind in kinds:
        table.add_column(CONTROL_NAMES[kind], justify="center")
    for budget in budgets:
        row = [f"{budget:g}"]
        for strength in strengths:
            cell = [r for r in trials if (r.budget, r.strength) == (budget, strength)]
            row.append(_cell_text(cell, resource))
        for kind in kinds:
            cell = [r for r in records if (r.budget, r.control) == (budget, kind)]
            row.append(_cell_text(cell, resource))
        table.add_row(*row)
    return table


_CAPTION = (
    "best of each cell: validation {score} (test {score}), {cost};\n"
    "★ on the front; n/m: finished of all trials where some are not"
)
_CONTROL_CAPTION = "\nbehind the strengths: controls, trained alike on as much compute"
_COSTS = {
    "macs": "share of the supernet's MACs",
    "num_params": "parameters",
    "activation_bytes": "bytes of activations at their peak",
    "latency_ms": "milliseconds predicted by the table",
}


def _cell_text(cell: Sequence[TrialRecord], resource: str) -> str:
    best = _best(cell, resource)
    finished = sum(r.status == "FINISHED" for r in cell)
    count = "" if finished == len(cell) else f" {finished}/{len(cell)}"
    if best is None:
        return f"[dim]-{count}[/dim]" if cell else ""
    star = " [yellow]★[/yellow]" if best.on_front else ""
    score, test = (figure(best.metric, value) for value in (best.score, best.test_score))
    return f"[bold]{score}[/bold] ({test}) {cost_text(best, resource)}{star}{count}"


def cost_text(record: TrialRecord, resource: str) -> str:
    """Return the cost in a resource; MACs as a share of the supernet's."""
    cost = record.cost(resource)
    if resource == "macs" or cost is None:
        return f"{record.macs_ratio:.3f}"
    return _milliseconds(cost) if resource == "latency_ms" else count_text(round(cost))


def front_table(records: Sequence[TrialRecord], title: str, resource: str = "macs") -> Table:
    """Return the members of the front, cheapest in the sweep's resource first.

    The latency in ``ms`` is the measured one; the predicted one stands beside it where latency is
    limited, and is what the front goes by.
    """
    members = [r for r in without_controls(records) if r.on_front]
    return _cost_table(members, title, f"no trial is as good with less {resource}", resource)


def controls_tables(records: Sequence[TrialRecord], resource: str = "macs") -> list[Table]:
    """Return the finished controls as one table like that of the front; none without controls."""
    finished = [r for r in controls_among(records) if r.status == "FINISHED"]
    caption = "trained alike on as much compute; never on the front, never promoted"
    if not finished:
        return []
    return [_cost_table(finished, "controls, for comparison", caption, resource)]


def _cost_table(records: Sequence[TrialRecord], title: str, caption: str, resource: str) -> Table:
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    members = sorted(records, key=lambda r: r.cost(resource) or 0)
    has_table = any(r.predicted_latency_ms is not None for r in members)
    by_memory = resource == "activation_bytes"
    names = ["trial", "MACs", "share", "params", *["activations"] * by_memory, "ms"]
    for name in [*names, *["predicted"] * has_table, _label(records), "test"]:
        table.add_column(name, justify="left" if name == "trial" else "right")
    for r in members:
        table.add_row(
            r.trial_id,
            count_text(r.macs),
            f"{r.macs_ratio:.4f}",
            count_text(r.num_params),
            *[count_text(r.activation_bytes)] * by_memory,
            _milliseconds(r.latency_ms),
            *[_milliseconds(r.predicted_latency_ms)] * has_table,
            figure(r.metric, r.score),
            figure(r.metric, r.test_score),
        )
    return table


def trial_table(records: Sequence[TrialRecord], title: str) -> Table:
    """Return one row per trial with its status."""
    table = Table(title=escape(title), title_justify="left")
    has_times = any(r.seconds is not None for r in records)
    has_prices = any(r.price is not None for r in records)
    known = [*["time"] * has_times, *["price"] * has_prices]
    for name in ("trial", "status", _label(records), "of supernet", *known):
        table.add_column(name, justify="right" if name in known else "left", no_wrap=True)
    table.add_column("hyper-parameters / error")
    for r in records:
        chosen = ", ".join(f"{k} {v:.4g}" for k, v in r.hyperparameters.items())
        table.add_row(
            r.trial_id,
            r.status,
            figure(r.metric, r.score),
            "" if r.macs_ratio is None else f"{r.macs_ratio:.4f}",
            *[_duration(r.seconds)] * has_times,
            *["" if r.price is None else amount(r.price)] * has_prices,
            escape(r.error or chosen),
        )
    return table


def jobs_table(jobs: Sequence[SweepJob], title: str) -> Table:
    """Return one row per submitted job with its state, the latest first."""
    table = Table(title=title, title_justify="left")
    for name in ("job", "state", "began", "ended", "last words"):
        table.add_column(name, overflow="fold")
    for job in jobs:
        table.add_row(
            *(job.job_id, job.state, _time(job.start_time_ms), _time(job.end_time_ms)),
            escape(job.message),
        )
    return table


def _time(ms: int | None) -> str:
    """Local time of milliseconds since 1970."""
    return f"{datetime.fromtimestamp(ms / 1000):%Y-%m-%d %H:%M:%S}" if ms else ""


def plan_table(summary: dict[str, Any]) -> Table:
    """Return the plan of a sweep, see :func:`orchestrator.preflight.describe`."""
    table = Table("plan", "", show_header=False, box=None)
    for key, value in summary.items():
        table.add_row(key, escape(_plan_text(value)))
    return table


_SHOWN = 4
"""Reasons that the table of the plan shows; ``--json`` has them all."""


def _plan_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {part}" for key, part in value.items())
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        lines = [": ".join(str(v) for v in part.values()) for part in value[:_SHOWN]]
        hidden = len(value) - len(lines)
        return "\n".join([*lines, f"and {hidden} more, see --json"] if hidden else lines)
    if isinstance(value, list):
        return ", ".join(str(part) for part in value) or "none"
    return "none" if value is None else str(value)


def best_of(records: Sequence[TrialRecord], resource: str = "macs") -> TrialRecord | None:
    """Return the best finished trial; of equals the one that costs least in a resource.

    Controls do not count.
    """
    return _best(without_controls(records), resource)


def _best(records: Sequence[TrialRecord], resource: str) -> TrialRecord | None:
    finished = [r for r in records if r.status == "FINISHED" and r.score is not None]
    return max(finished, key=lambda r: (r.gain or 0.0, -(r.cost(resource) or 0)), default=None)


def _supernet_texts(
    records: Sequence[TrialRecord], scores: tuple[float | None, float | None]
) -> list[str]:
    metric = records[0].metric if records else ""
    validation, test = (figure(metric, score) for score in scores)
    return [validation, f"({test})"]


def _label(records: Sequence[TrialRecord]) -> str:
    """Return what the records' scores are."""
    return label(records[0].metric) if records else "score"


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
