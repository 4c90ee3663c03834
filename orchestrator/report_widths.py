"""The pictures of widths by layer in a sweep's report (plotly)."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from orchestrator.plots import INK
from orchestrator.records import TrialRecord
from orchestrator.report_figures import PALE, Curve, style_figure

_ROW_PX = 26


def widths_figure(members: Sequence[TrialRecord], supernet: Mapping[str, int] | None) -> go.Figure:
    """Return widths by layer (rows, the first on top), a column per member and the supernet's.

    Colours are shares of the supernet's width, or where that is not known of the widest member's.

    Args:
        members: of the front, with :attr:`TrialRecord.widths`, the cheapest first.
        supernet: its widths by channel group, in order of execution, if they are known.
    """
    known = [(_label(member), member.widths or {}) for member in members]
    columns = [*known, ("<b>supernet</b>", supernet)] if supernet else known
    layers = list(dict.fromkeys(name for _, widths in columns[::-1] for name in widths))
    full = {n: max(widths.get(n, 0) for _, widths in columns) or 1 for n in layers}
    figure = go.Figure(
        go.Heatmap(
            z=[[_share(widths.get(n), full[n]) for _, widths in columns] for n in layers],
            x=[label for label, _ in columns],
            y=[html.escape(name) for name in layers],
            text=[[widths.get(n, "") for _, widths in columns] for n in layers],
            customdata=[[full[n]] * len(columns) for n in layers],
            texttemplate="%{text}",
            hovertemplate="%{y}<br>%{x}<br>%{text} of %{customdata}<extra></extra>",
            colorscale=PALE,
            textfont={"color": INK},
            zmin=0,
            zmax=1,
            xgap=2,
            ygap=1,
            colorbar={
                "tickformat": ".0%",
                "thickness": 12,
                "outlinewidth": 0,
                "lenmode": "pixels",
                "len": 140,
                "yanchor": "top",
                "y": 1,
            },
        )
    )
    style_figure(figure, height=190 + _ROW_PX * max(3, len(layers)))
    figure.update_xaxes(type="category", side="top", tickangle=-90, showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, dtick=1)
    return figure


def search_widths_figure(members: Sequence[TrialRecord], curves: Mapping[str, Curve]) -> go.Figure:
    """Return widths by layer (rows) after each epoch of the search; a menu chooses the network.

    Colours are shares of the greatest of these widths.

    Args:
        members: of the front; at first the last one is shown.
        curves: by trial id, of those members some of which have widths.
    """
    drawn = [m for m in members if m.trial_id in curves and curves[m.trial_id].widths]
    figure, rows = go.Figure(), 0
    for member in drawn:
        curve = curves[member.trial_id]
        widths = curve.widths
        rows = max(rows, len(widths))
        full = {name: max(values) for name, values in widths.items()}
        heatmap = go.Heatmap(
            z=[[width / full[name] for width in values] for name, values in widths.items()],
            x=list(curve.width_epochs),
            y=[html.escape(name) for name in widths],
            customdata=[list(values) for values in widths.values()],
            hovertemplate="%{y}, epoch %{x}<br>%{customdata} channels<extra></extra>",
            colorscale=PALE,
            zmin=0,
            zmax=1,
            colorbar={"tickformat": ".0%", "thickness": 12, "outlinewidth": 0},
            visible=member is drawn[-1],
        )
        figure.add_trace(heatmap)
    shown = [[other is member for other in drawn] for member in drawn]
    buttons = [
        {"label": html.escape(member.trial_id), "method": "update", "args": [{"visible": visible}]}
        for member, visible in zip(drawn, shown, strict=True)
    ]
    style_figure(figure, height=150 + _ROW_PX * max(3, rows))
    menu = {"buttons": buttons, "active": len(drawn) - 1, "x": 0, "xanchor": "left", "y": 1.02}
    figure.update_layout(updatemenus=[{**menu, "yanchor": "bottom"}], margin={"t": 60})
    figure.update_xaxes(title="epoch of the search", showgrid=False, dtick=1)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, dtick=1)
    return figure


def _label(member: TrialRecord) -> str:
    share = "" if member.macs_ratio is None else f" {member.macs_ratio:.1%}"
    return html.escape(member.trial_id) + share


def _share(width: int | None, full: int) -> float | None:
    return None if width is None else width / full
