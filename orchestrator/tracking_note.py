"""What a sweep's run says of itself in MLflow's UI: Markdown, kept up to date while it runs.

The UI folds a long description: what counts, and where to click, comes first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.pareto import front
from orchestrator.records import STATUS_NAMES, TrialRecord, controls_among, without_controls
from orchestrator.scores import count_text, label, short
from orchestrator.tables import best_of
from orchestrator.tracking_names import budget_text
from orchestrator.tracking_requests import MAX_TAG_CHARS
from orchestrator.tracking_views import page_link, view_ids, view_link

NOTE_TAG = "mlflow.note.content"
"""Tag of a run that the UI shows as its description."""

END = "*Written by `pas`, and kept up to date; what you add below this line stays.*"

_FIRST_COLUMNS = ("budget", "strength", "best trial")
_LAST_COLUMNS = ("test", "MACs", "share", "parameters", "ms", "channels")
_GAP, _FIXED_SPACE = "&ensp;", "\u00a0"


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepFacts:
    """What the description of a sweep tells, beside its trials.

    Attributes:
        sweep_id: its name and hash.
        experiment_id: where its runs are.
        resource: what its budgets limit.
        metric: what its networks are compared by.
        limits: budget -> the same in units of the resource, of those that are known.
        num_trials: planned; ``None``: not known.
        supernet_macs: of the supernet; ``None``: not known.
        figures: metrics of the sweep's run, the supernet's score among them.
        run_ids: trial id -> MLflow run.
    """

    sweep_id: str
    experiment_id: str
    resource: str
    metric: str = "accuracy"
    limits: Mapping[float, float] = field(default_factory=dict)
    num_trials: int | None = None
    supernet_macs: int | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    run_ids: Mapping[str, str] = field(default_factory=dict)


def sweep_note(facts: SweepFacts, records: Sequence[TrialRecord], added: str = "") -> str:
    """Return the description, short enough for a tag.

    Args:
        facts: of the sweep.
        records: its trials and controls that have ended.
        added: what a person has written into it; stays, if need be in place of rows.
    """
    members = {record.trial_id for record in front(records, facts.resource)}
    columns = (*_FIRST_COLUMNS, label(facts.metric), *_LAST_COLUMNS)
    header = f"{_line(columns)}\n|{'---|' * len(columns)}"
    head = "\n\n".join([_counts(facts, records, len(members)), _links(facts), header])
    tail = "\n\n".join(["", _commands(facts), END])
    rows: list[str] = []
    left = MAX_TAG_CHARS - len(head) - len(tail) - len(added) - 80
    every = _rows(facts, records, members)
    for row in every:
        left -= len(row) + 1
        if left < 0:
            rows.append(f"| … {len(every) - len(rows)} more: `pas compare` |")
            break
        rows.append(row)
    note = "\n".join([head, *rows]) + tail
    return f"{note}\n\n{added}"[:MAX_TAG_CHARS].rstrip()


def what_was_added(before: str) -> str:
    """Return what a person has written into the description as it is now."""
    _, is_ours, added = before.partition(END)
    return (added if is_ours else before).strip()


def widths_text(widths: Mapping[str, int] | None) -> str:
    """Return widths in a few words."""
    if not widths:
        return ""
    least, most = min(widths.values()), max(widths.values())
    each = f"{least}" if least == most else f"{least} to {most}"
    return f"{sum(widths.values()):,} ({each} a group)"


def _counts(facts: SweepFacts, records: Sequence[TrialRecord], num_members: int) -> str:
    trials, controls = without_controls(records), controls_among(records)
    by_status = Counter[str](record.status for record in trials)
    counts = [f"{by_status[s]} {name}" for s, name in STATUS_NAMES.items() if by_status[s]]
    planned = "" if facts.num_trials is None else f" of {facts.num_trials}"
    parts = [f"**{len(trials)}{planned} trials have ended**: {', '.join(counts) or 'none yet'}"]
    parts.append(f"{num_members} on the front")
    if controls:
        parts.append(f"{len(controls)} controls")
    if (score := facts.figures.get(f"supernet_{facts.metric}")) is not None:
        of = f" with {count_text(facts.supernet_macs)} MACs" if facts.supernet_macs else ""
        parts.append(f"the supernet has {short(facts.metric, score)}{of}")
    return "; ".join(parts) + "."


def _links(facts: SweepFacts) -> str:
    ids, where = view_ids(facts.sweep_id), facts.experiment_id
    links = [
        f"[charts that compare the budgets]({view_link(where, ids['budgets'], charts=True)})",
        f"[all trials, best first]({view_link(where, ids['trials'])})",
        f"[the front]({view_link(where, ids['front'])})",
        f"[its networks]({page_link(where, 'models')})",
    ]
    # the UI takes no clicks on a description that is folded
    return f"To open once *Show more* is clicked: {' · '.join(links)}"


def _rows(facts: SweepFacts, records: Sequence[TrialRecord], members: set[str]) -> list[str]:
    rows = []
    for budget in sorted({r.budget for r in without_controls(records)}, reverse=True):
        best = best_of([r for r in records if r.budget == budget], facts.resource)
        text = budget_text(budget, facts.resource, facts.limits.get(budget))
        if best is None:
            rows.append(f"| {text} | none has finished |")
        else:
            star = " ★" if best.trial_id in members else ""
            rows.append(_row(facts, best, text, f"{best.strength:g}", star))
    for record in sorted(controls_among(records), key=lambda r: (r.control or "", -r.budget)):
        text = budget_text(record.budget, facts.resource, facts.limits.get(record.budget))
        where = "" if record.control == "supernet" else text
        rows.append(_row(facts, record, where, ""))
    return rows


def _row(facts: SweepFacts, record: TrialRecord, budget: str, strength: str, star: str = "") -> str:
    run_id = facts.run_ids.get(record.trial_id)
    trial = record.trial_id
    if run_id:
        trial = f"[{trial}]({page_link(facts.experiment_id, f'runs/{run_id}')})"
    cells = [
        budget,
        strength,
        trial + star,
        short(record.metric, record.score),
        short(record.metric, record.test_score),
        count_text(record.macs),
        "" if record.macs_ratio is None else f"{record.macs_ratio:.4f}",
        count_text(record.num_params),
        "" if record.latency_ms is None else f"{record.latency_ms:.3g}",
        widths_text(record.widths),
    ]
    return _line(cells)


def _line(cells: Sequence[str]) -> str:
    # no cell is to break, and the UI draws tables without any space between columns
    return f"| {' | '.join(cell.replace(' ', _FIXED_SPACE) + _GAP for cell in cells)} |"


def _commands(facts: SweepFacts) -> str:
    budget = "BUDGET"
    if facts.limits:
        number, limit = max(facts.limits.items())
        budget = repr(number).removesuffix(".0")
        if facts.resource == "latency_ms" and number == limit:
            budget = f"'{budget} ms'"
    return (
        "★ on the front: no trial is as accurate for less. share: of the supernet's MACs; ms: one "
        "image on one CPU thread; channels: all together. In a terminal:\n\n```\n"
        f"pas compare {facts.sweep_id}\n"
        f"pas report {facts.sweep_id}\n"
        f"pas promote {facts.sweep_id} --budget {budget} --model NAME\n```"
    )
