"""The Pareto front as an interactive picture (plotly), also as one self-contained page."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from orchestrator.pareto import front
from orchestrator.records import CONTROL_NAMES, TrialRecord, controls_among, without_controls
from orchestrator.scores import axis as score_axis
from orchestrator.scores import figure as score_figure
from orchestrator.scores import label

_AXIS_TITLES = {
    "macs": "MACs",
    "num_params": "parameters",
    "activation_bytes": "peak activations (bytes)",
    "latency_ms": "latency (ms)",
}
INK, GRID, LIMIT = "#1f2937", "#e5e7eb", "#94a3b8"
COLORSCALE = "Viridis"
MANY = 2000
"""Trials, above which a picture is drawn by WebGL and says less of each."""

_CONTROL_MARKER = {"color": INK, "size": 10, "line": {"color": INK, "width": 2}}
_CONTROL_SYMBOLS = {"uniform": "x-thin", "supernet": "triangle-up-open"}


def front_figure(
    records: Iterable[TrialRecord],
    resource: str = "macs",
    title: str = "Pareto front",
    *,
    reference_cost: float | None = None,
    limits: Sequence[float] = (),
) -> go.Figure:
    """Draw finished trials and controls, the front as a step line and the limits as faint lines.

    Args:
        records: trials of one sweep; only FINISHED ones with cost and score are drawn.
        resource: on the horizontal axis, see :meth:`TrialRecord.cost`.
        title: heading of the picture.
        reference_cost: the supernet's cost; the axis then shows cost / reference_cost. For
            ``macs`` it is read off the records when not given; without it costs are absolute.
        limits: of the budgets, in units of the resource.

    Returns:
        A figure with one trace per strength (colour: from weak, dark, to strong, bright), one for
        the front and one per kind of control.
    """
    rows = list(records)
    drawn = [r for r in rows if _drawable(r, resource)]
    unit = reference_cost or (_supernet_macs(drawn) if resource == "macs" else None)
    scale = 1.0 / unit if unit else 1.0
    figure = go.Figure()
    members = front(drawn, resource)
    _add_limits(figure, [limit * scale for limit in limits], relative=bool(unit))
    _add_front(figure, members, resource, scale)
    trials, front_ids = without_controls(drawn), {record.trial_id for record in members}
    _add_trials(figure, trials, resource, scale, front_ids)
    _add_controls(figure, controls_among(drawn), resource, scale)
    if not drawn:
        figure.add_annotation(
            text="no finished trial yet", showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper"
        )
    metric = rows[0].metric if rows else "accuracy"
    _style(figure, resource, title, metric, relative=bool(unit))
    return figure


def front_html(
    records: Iterable[TrialRecord],
    resource: str = "macs",
    title: str = "Pareto front",
    *,
    reference_cost: float | None = None,
    limits: Sequence[float] = (),
) -> str:
    """Return :func:`front_figure` as one HTML page that needs no network (plotly.js inside)."""
    figure = front_figure(records, resource, title, reference_cost=reference_cost, limits=limits)
    page: str = figure.to_html(
        include_plotlyjs=True,
        full_html=True,
        default_height="96vh",
        config={"displaylogo": False, "responsive": True},
    )
    return page


def colors_of(count: int) -> list[str]:
    """Return so many colours, from dark to bright."""
    shares = [0.12 + 0.74 * i / max(1, count - 1) for i in range(count)]
    return list(sample_colorscale(COLORSCALE, shares)) if shares else []


def _drawable(record: TrialRecord, resource: str) -> bool:
    cost = record.cost(resource)
    return (
        record.status == "FINISHED"
        and cost is not None
        and record.score is not None
        and math.isfinite(cost)
        and math.isfinite(record.score)
    )


def _supernet_macs(records: Iterable[TrialRecord]) -> float | None:
    for record in records:
        if record.macs and record.macs_ratio:
            return record.macs / record.macs_ratio
    return None


def _add_trials(
    figure: go.Figure,
    records: Sequence[TrialRecord],
    resource: str,
    scale: float,
    members: set[str],
) -> None:
    strengths = sorted({record.strength for record in records})
    are_many = len(records) > MANY
    scatter, hover = (go.Scattergl, _short_hover) if are_many else (go.Scatter, _hover)
    for strength, color in zip(strengths, colors_of(len(strengths)), strict=True):
        group = [record for record in records if record.strength == strength]
        on_front = [record.trial_id in members for record in group]
        figure.add_trace(
            scatter(
                x=_costs(group, resource, scale),
                y=[record.score for record in group],
                mode="markers",
                name=f"{strength:g}",
                hovertext=[hover(record) for record in group],
                hoverinfo="text",
                legendgroup="strength",
                legendgrouptitle_text="strength",
                marker={
                    "color": color,
                    "size": [12 if member else 8 for member in on_front],
                    "opacity": [1.0 if member else 0.65 for member in on_front],
                    "line": {"color": INK, "width": [1.5 if m else 0 for m in on_front]},
                },
            )
        )


def _add_controls(
    figure: go.Figure, controls: Sequence[TrialRecord], resource: str, scale: float
) -> None:
    for kind in dict.fromkeys(record.control or "" for record in controls):
        group = [record for record in controls if record.control == kind]
        figure.add_trace(
            go.Scatter(
                x=_costs(group, resource, scale),
                y=[record.score for record in group],
                mode="markers",
                name=CONTROL_NAMES[kind],
                hovertext=[_hover(record) for record in group],
                hoverinfo="text",
                legendgroup="controls",
                legendgrouptitle_text="controls",
                marker=_CONTROL_MARKER | {"symbol": _CONTROL_SYMBOLS[kind]},
            )
        )


def _costs(records: Sequence[TrialRecord], resource: str, scale: float) -> list[float]:
    return [(record.cost(resource) or 0.0) * scale for record in records]


def _add_front(
    figure: go.Figure, members: Sequence[TrialRecord], resource: str, scale: float
) -> None:
    if not members:
        return
    figure.add_trace(
        go.Scatter(
            x=_costs(members, resource, scale),
            y=[record.score for record in members],
            mode="lines",
            line={"shape": "hv", "color": INK, "width": 2},
            name="front",
            hoverinfo="skip",
        )
    )


def _add_limits(figure: go.Figure, limits: Sequence[float], *, relative: bool) -> None:
    for limit in limits:
        figure.add_vline(
            x=limit,
            line={"color": LIMIT, "width": 1, "dash": "dot"},
            layer="below",
            annotation={
                "text": f"limit {limit:.3g}" if not relative else f"limit {100 * limit:.3g}%",
                "font": {"size": 11, "color": LIMIT},
                "yanchor": "bottom",
            },
            annotation_position="top",
        )


def _short_hover(record: TrialRecord) -> str:
    return f"<b>{html.escape(record.trial_id)}</b><br>{_score_text(record, record.score)}"


def _hover(record: TrialRecord) -> str:
    lines = [f"<b>{html.escape(record.trial_id)}</b>"]
    what = f"budget {record.budget:g}, strength {record.strength:g}"
    lines.append(f"control: {CONTROL_NAMES[record.control]}" if record.control else what)
    lines.append(_score_text(record, record.score))
    if record.test_score is not None:
        lines.append(f"test {_score_text(record, record.test_score)}")
    if record.macs is not None:
        share = f" ({record.macs_ratio:.1%})" if record.macs_ratio is not None else ""
        lines.append(f"{record.macs:,} MACs{share}")
    if record.num_params is not None:
        lines.append(f"{record.num_params:,} parameters")
    if record.latency_ms is not None:
        lines.append(f"{record.latency_ms:.3g} ms measured")
    if record.predicted_latency_ms is not None:
        lines.append(f"{record.predicted_latency_ms:.3g} ms predicted")
    for name, value in record.hyperparameters.items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        lines.append(f"{html.escape(name)} = {html.escape(shown)}")
    return "<br>".join(line for line in lines if line)


def _score_text(record: TrialRecord, score: float | None) -> str:
    return "" if score is None else f"{label(record.metric)} {score_figure(record.metric, score)}"


def _style(figure: go.Figure, resource: str, title: str, metric: str, *, relative: bool) -> None:
    name = _AXIS_TITLES.get(resource, resource)
    heading = f"{name}, share of the supernet" if relative else name
    axis = {
        "gridcolor": GRID,
        "zeroline": False,
        "showline": True,
        "linecolor": LIMIT,
        "ticks": "outside",
        "tickcolor": LIMIT,
        "automargin": True,
    }
    figure.update_layout(
        template="none",
        title={"text": html.escape(title), "x": 0.02, "xanchor": "left", "font": {"size": 19}},
        font={"family": "system-ui, -apple-system, Segoe UI, sans-serif", "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        margin={"l": 70, "r": 30, "t": 90, "b": 60},
        hovermode="closest",
        hoverlabel={"bgcolor": "white", "bordercolor": LIMIT, "align": "left"},
        legend={"itemsizing": "constant", "tracegroupgap": 6},
        xaxis={**axis, "title": {"text": heading, "standoff": 14}},
        yaxis={
            **axis,
            "title": {"text": score_axis(metric), "standoff": 16},
            **({"tickformat": ".1%"} if metric == "accuracy" else {}),
        },
        showlegend=True,
    )
    if relative:
        figure.update_xaxes(tickformat=".0%")
