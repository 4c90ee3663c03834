"""The pictures of a sweep's report (plotly): pure functions of what is known of its trials."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from orchestrator.plots import COLORSCALE, GRID, INK, LIMIT, colors_of, front_figure
from orchestrator.records import TrialRecord, without_controls
from orchestrator.scores import axis, short
from orchestrator.tables import best_of

FONT = "system-ui, -apple-system, Segoe UI, sans-serif"
PALE = [
    [step / 10, f"rgb({', '.join(str(round(140 + 0.45 * 255 * part)) for part in color)})"]
    for step, color in enumerate(
        sample_colorscale(COLORSCALE, [step / 10 for step in range(11)], colortype="tuple")
    )
]
"""The colours of the other pictures, mixed with white: dark text is readable on all of them."""
_LEGEND = {"orientation": "h", "yanchor": "top", "x": 0}
_AXIS = {"gridcolor": GRID, "zeroline": False, "linecolor": LIMIT, "automargin": True}


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """What a trial reported of its epochs, in order.

    Attributes:
        epochs: counted through search and fine-tuning.
        macs_ratio: after each of them, the share of the supernet's MACs.
        score: after each of them, on the validation split.
        num_search: how many of them belong to the search.
        width_epochs: those of the search after which widths are known.
        widths: by channel group, after each of these.
    """

    epochs: Sequence[int]
    macs_ratio: Sequence[float]
    score: Sequence[float]
    num_search: int
    width_epochs: Sequence[int] = ()
    widths: Mapping[str, Sequence[int]] = field(default_factory=dict)


def report_front(
    records: Sequence[TrialRecord],
    resource: str,
    reference_cost: float | None,
    limits: Sequence[float],
) -> go.Figure:
    """Return :func:`orchestrator.plots.front_figure` as it fits into the page."""
    figure = front_figure(records, resource, "", reference_cost=reference_cost, limits=limits)
    figure.update_layout(
        height=520,
        margin={"l": 60, "r": 16, "t": 34, "b": 60},
        legend={
            "orientation": "h",
            "y": -0.16,
            "yanchor": "top",
            "x": 0,
            "groupclick": "toggleitem",
        },
    )
    figure.update_traces(legendgrouptitle_text=None)
    figure.for_each_annotation(lambda a: a.update(text=a.text.removeprefix("limit ")))
    figure.for_each_trace(
        lambda trace: trace.update(name=f"strength {trace.name}"),
        selector={"legendgroup": "strength"},
    )
    return figure


def cells_figure(records: Sequence[TrialRecord]) -> go.Figure:
    """Return budgets (rows, the loosest on top) x strengths as a heat map of best accuracies.

    Args:
        records: of the sweep; controls do not count. In a cell stands the best validation score
            and how many of its trials have finished.
    """
    cells: dict[tuple[float, float], list[TrialRecord]] = {}
    for record in without_controls(records):
        cells.setdefault((record.budget, record.strength), []).append(record)
    budgets = sorted({budget for budget, _ in cells})
    strengths = sorted({strength for _, strength in cells})
    best, texts = [], []
    for budget in budgets:
        row = [cells.get((budget, strength), []) for strength in strengths]
        bests = [best_of(cell) for cell in row]
        best.append([None if b is None else b.score for b in bests])
        texts.append([_cell_text(cell, b) for cell, b in zip(row, bests, strict=True)])
    figure = go.Figure(
        go.Heatmap(
            z=best,
            x=[f"{strength:g}" for strength in strengths],
            y=[f"{budget:g}" for budget in budgets],
            text=texts,
            texttemplate="%{text}",
            hovertemplate="budget %{y}, strength %{x}<br>%{text}<extra></extra>",
            colorscale=PALE,
            textfont={"color": INK},
            xgap=3,
            ygap=3,
            reversescale=bool(records) and not records[0].higher_is_better,
            colorbar={"tickformat": score_format(records), "thickness": 12, "outlinewidth": 0},
        )
    )
    _add_empty_texts(figure, best, texts)
    style_figure(figure, height=130 + 62 * max(1, len(budgets)))
    figure.update_xaxes(title="strength", type="category", showgrid=False, side="bottom")
    figure.update_yaxes(title={"text": "budget", "standoff": 14}, type="category", showgrid=False)
    return figure


def curves_figure(
    members: Sequence[TrialRecord],
    curves: Mapping[str, Curve],
    supernet_score: float | None,
) -> go.Figure:
    """Return cost (above) and score (below) by epoch: search dotted, fine-tuning solid.

    Args:
        members: of the front, the cheapest first.
        curves: by trial id; members without one are left out.
        supernet_score: drawn as a line, if it is known.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    drawn = [member for member in members if member.trial_id in curves]
    metric = members[0].metric if members else "accuracy"
    formats = (".1%", score_format(members))
    for member, color in zip(drawn, colors_of(len(drawn)), strict=True):
        curve, name = curves[member.trial_id], html.escape(member.trial_id)
        split = curve.num_search
        for row, values in enumerate((curve.macs_ratio, curve.score), start=1):
            for part, dash in ((slice(0, split), "dot"), (slice(max(0, split - 1), None), "solid")):
                is_main = row == 1 and dash == "solid"
                line = go.Scatter(
                    x=list(curve.epochs[part]),
                    y=list(values[part]),
                    mode="lines",
                    line={"color": color, "width": 2, "dash": dash},
                    name=name,
                    legendgroup=name,
                    showlegend=is_main,
                    hovertemplate=f"epoch %{{x}}: %{{y:{formats[row - 1]}}}",
                )
                figure.add_trace(line, row=row, col=1)
    if supernet_score is not None and drawn:
        figure.add_hline(
            y=supernet_score,
            line={"color": LIMIT, "dash": "dash", "width": 1},
            annotation={"text": "supernet", "font": {"size": 11, "color": INK}},
            row=2,
            col=1,
        )
    style_figure(figure, height=540)
    figure.update_yaxes(title="share of the MACs", tickformat=".0%", row=1, col=1)
    figure.update_yaxes(title=axis(metric), tickformat=formats[1], row=2, col=1)
    figure.update_xaxes(title="epoch", row=2, col=1)
    figure.update_layout(legend={**_LEGEND, "y": -0.17})
    return figure


def score_format(records: Sequence[TrialRecord]) -> str:
    """Return how plotly shows the records' scores on an axis."""
    return ".1%" if not records or records[0].metric == "accuracy" else ".4g"


def importance_figure(shares: Mapping[str, float]) -> go.Figure:
    """Return a bar per hyper-parameter, the most important on top."""
    names = list(shares)[::-1]
    figure = go.Figure(
        go.Bar(
            x=[shares[name] for name in names],
            y=[html.escape(name) for name in names],
            orientation="h",
            marker={"color": colors_of(3)[1]},
            text=[f"{shares[name]:.0%}" for name in names],
            textposition="auto",
            hoverinfo="skip",
        )
    )
    style_figure(figure, height=90 + 44 * len(names))
    figure.update_xaxes(range=[0, 1], tickformat=".0%")
    figure.update_yaxes(showgrid=False)
    return figure


def _cell_text(cell: Sequence[TrialRecord], best: TrialRecord | None) -> str:
    if not cell:
        return ""
    count = f"{sum(r.status == 'FINISHED' for r in cell)} of {len(cell)} finished"
    return (
        count if best is None else f"<b>{short(best.metric, best.score or 0.0, 2)}</b><br>{count}"
    )


def _add_empty_texts(
    figure: go.Figure, best: Sequence[Sequence[float | None]], texts: Sequence[Sequence[str]]
) -> None:
    """A cell without a value gets no text from plotly."""
    for row, values in enumerate(best):
        for column, value in enumerate(values):
            if value is None and texts[row][column]:
                text = texts[row][column]
                figure.add_annotation(x=column, y=row, text=text, showarrow=False)


def style_figure(figure: go.Figure, *, height: int) -> None:
    """Give a picture the look of the page; ``height`` in pixels."""
    figure.update_layout(
        template="none",
        font={"family": FONT, "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        height=height,
        margin={"l": 10, "r": 10, "t": 20, "b": 40},
        hoverlabel={"bgcolor": "white", "bordercolor": LIMIT, "align": "left"},
    )
    figure.update_xaxes(**_AXIS)
    figure.update_yaxes(**_AXIS)
