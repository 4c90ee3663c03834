"""The page of a sweep's report: what is collected, as words, tables and pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from orchestrator.accounting import PHASE_NAMES, amount, summary
from orchestrator.records import (
    CONTROL_NAMES,
    STATUS_NAMES,
    TrialRecord,
    controls_among,
    without_controls,
)
from orchestrator.report import SweepReport, thinned
from orchestrator.report_figures import (
    cells_figure,
    curves_figure,
    importance_figure,
    report_front,
)
from orchestrator.report_widths import search_widths_figure, widths_figure
from orchestrator.reproduction import caveats, search_command, sweep_command
from orchestrator.scores import label, short
from orchestrator.tables import best_of, cost_text

_MOST_FAILURES = 100
_COSTS = {
    "macs": "share of MACs",
    "num_params": "parameters",
    "activation_bytes": "activation bytes",
    "latency_ms": "predicted ms",
}


def render(report: SweepReport) -> str:
    """Return the page: HTML that needs no network, whatever the records say."""
    environment = Environment(
        loader=PackageLoader("orchestrator", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.jinja")
    return page.render(_content(report), plotlyjs=Markup(get_plotlyjs()))  # noqa: S704


def _content(report: SweepReport) -> dict[str, Any]:
    info, records, members = report.info, report.records, report.members
    trials, drawn = without_controls(records), thinned(members)
    failed = [r for r in records if r.status == "FAILED"]
    return {
        "info": info,
        "score_name": label(info.metric),
        "facts": _facts(report),
        "is_running": info.status == "RUNNING",
        "made": _time(report.made_ms),
        "cost_name": _COSTS[info.resource],
        "front_table": [_row(r, info.resource) for r in members],
        "controls_table": [_row(r, info.resource) for r in _finished(controls_among(records))],
        "num_members": len(members),
        "num_drawn": len(drawn),
        "knows_supernet": report.supernet_widths is not None,
        "importance": report.importance,
        "usage": list(_usage(report)),
        "hours": _hours(report),
        "failed": [{"trial": r.trial_id, "error": r.error or ""} for r in failed[:_MOST_FAILURES]],
        "num_failed": len(failed),
        "given_up": [cell.name for cell in report.given_up],
        "config": report.config,
        "sweep_command": sweep_command(report.config),
        "searches": _searches(report),
        "caveats": caveats(report.config, members),
        "sweep_file": report.sweep_file,
        "figures": _figures(report, trials, drawn),
    }


def _figures(
    report: SweepReport, trials: Sequence[TrialRecord], drawn: Sequence[TrialRecord]
) -> dict[str, Markup]:
    """Return each picture as a piece of HTML."""
    info = report.info
    front = report_front(
        report.records, info.resource, info.supernet_cost, list(report.limits.values())
    )
    figures = {"front": front}
    if trials:
        figures["cells"] = cells_figure(trials)
    if drawn:
        figures["widths"] = widths_figure(drawn, report.supernet_widths)
    if report.curves:
        figures["curves"] = curves_figure(drawn, report.curves, info.supernet_score)
    if any(curve.widths for curve in report.curves.values()):
        figures["search_widths"] = search_widths_figure(drawn, report.curves)
    if report.importance.shares:
        figures["importance"] = importance_figure(report.importance.shares)
    config = {"displaylogo": False, "responsive": True, "displayModeBar": False}
    return {
        name: Markup(  # noqa: S704 (plotly escapes what it writes into the script)
            figure.to_html(
                full_html=False, include_plotlyjs=False, div_id=f"figure-{name}", config=config
            )
        )
        for name, figure in figures.items()
    }


def _facts(report: SweepReport) -> list[tuple[str, str]]:
    info, config = report.info, report.config
    supernet, name = [config.supernet.name], label(info.metric)
    if info.supernet_macs is not None:
        supernet.append(f"{info.supernet_macs:,} MACs")
    if info.supernet_num_params is not None:
        supernet.append(f"{info.supernet_num_params:,} parameters")
    facts = [
        ("status", info.status.lower()),
        ("began", _time(info.start_time_ms)),
        ("ended", _time(info.end_time_ms) if info.end_time_ms else "not yet"),
        ("data set", _data_text(report)),
        ("supernet", ", ".join(supernet)),
        (f"supernet's {name}", _scores(info.metric, info.supernet_score, info.supernet_test_score)),
        ("limits", f"{info.resource}: {', '.join(str(limit) for limit in config.budget.limits)}"),
        ("strengths", ", ".join(f"{strength:g}" for strength in config.strengths)),
        ("trials", f"{_counts(without_controls(report.records))}; {config.num_trials} planned"),
    ]
    if controls := controls_among(report.records):
        facts.append(("controls", _counts(controls)))
    if best := best_of(report.records, info.resource):
        score = _scores(info.metric, best.score, best.test_score)
        cost = f"{_COSTS[info.resource]} {cost_text(best, info.resource)}"
        facts.append(("best trial", f"{best.trial_id}: {score}, {cost}"))
    return facts


def _data_text(report: SweepReport) -> str:
    data = report.config.data
    return f"{data.name} ({data.root})" if data.root else data.name


def _counts(records: Sequence[TrialRecord]) -> str:
    counts = Counter[str](record.status for record in records)
    told = [f"{counts[status]} {name}" for status, name in STATUS_NAMES.items() if counts[status]]
    return ", ".join(told) or "none yet"


def _scores(metric: str, score: float | None, test: float | None) -> str:
    if score is None:
        return "not known yet"
    told = f"{short(metric, score, 2)} validation"
    return told if test is None else f"{told}, {short(metric, test, 2)} test"


def _finished(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    return [record for record in records if record.status == "FINISHED"]


def _row(record: TrialRecord, resource: str) -> dict[str, str]:
    """Return the cells of a row on one network."""
    name = record.trial_id if record.control is None else CONTROL_NAMES[record.control]
    return {
        "trial": name if record.control in {None, "supernet"} else f"{name}, {record.budget:g}",
        "cost": cost_text(record, resource),
        "macs": "" if record.macs is None else f"{record.macs:,}",
        "params": "" if record.num_params is None else f"{record.num_params:,}",
        "ms": "" if record.latency_ms is None else f"{record.latency_ms:.3g}",
        "score": short(record.metric, record.score, 2),
        "test": short(record.metric, record.test_score, 2),
        "hyperparameters": ", ".join(f"{k} {v:.3g}" for k, v in record.hyperparameters.items()),
    }


def _usage(report: SweepReport) -> Iterator[tuple[str, str]]:
    """Give what is known of the compute spent."""
    used = summary(report.records, report.info.totals, report.info.currency)
    for name, key in (("CPU hours", "cpu_hours"), ("GPU hours", "gpu_hours")):
        if used[key]:
            yield name, amount(used[key])
    if used["utilization"] is not None:
        yield "utilization of the slots", f"{used['utilization']:.0%}"
    if used["price"] is not None:
        yield "price", f"{amount(used['price'])} {used['currency'] or ''}"
    if used["compute_saved"] is not None:
        yield "compute saved by early stopping", f"{used['compute_saved']:.0%}"


def _hours(report: SweepReport) -> list[tuple[str, str, str]]:
    """Return phase, hours in slots, and their share of all."""
    used = summary(report.records, report.info.totals, report.info.currency)
    hours: Mapping[str, float] = used["hours"]
    whole = sum(hours.values())
    return [(PHASE_NAMES[n], amount(value), f"{value / whole:.0%}") for n, value in hours.items()]


def _searches(report: SweepReport) -> list[dict[str, str]]:
    """Return the command of each front member, or why there is none."""
    limits = report.limits
    found = [(r.trial_id, search_command(report.config, r, limits)) for r in report.members]
    return [{"trial": trial_id, "command": command or ""} for trial_id, command in found]


def _time(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
