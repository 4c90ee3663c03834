"""Pictures of the comparison: accuracy against MACs, and the widths that were found."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

Rows = Sequence[dict[str, Any]]
OURS, ALL_CHANNELS = "PaS", "supernet"
_WIDTHS: dict[str, dict[str, Any]] = {
    OURS: {"color": "black", "marker": "o", "alpha": 0.7},
    "PaS, widths as found": {"color": "tab:blue", "marker": ".", "alpha": 0.5},
}
"""How the widths of each seed are drawn."""


def draw_accuracy(rows: Rows, methods: Sequence[str], path: Path, ours: str = OURS) -> None:
    """Draw test accuracy against the share of the MACs, one panel for each supernet."""
    supernets = list(dict.fromkeys(row["supernet"] for row in rows))
    figure, panels = pyplot.subplots(
        1, len(supernets), figsize=(5.2 * len(supernets), 4.4), squeeze=False, layout="constrained"
    )
    for panel, supernet in zip(panels[0], supernets, strict=True):
        for k, method in enumerate(methods):
            mine = [r for r in rows if (r["supernet"], r["method"]) == (supernet, method)]
            if not mine:
                continue
            if method == ALL_CHANNELS:
                level = statistics.mean(100 * r["test_accuracy"] for r in mine)
                panel.axhline(level, color="0.6", linestyle="--", linewidth=1, label=method)
                continue
            budgets = sorted({r["budget"] for r in mine})
            values = [[100 * r["test_accuracy"] for r in mine if r["budget"] == b] for b in budgets]
            means = [statistics.mean(v) for v in values]
            spread = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values]
            style = {"color": "black", "linewidth": 2.2, "zorder": 3} if method == ours else {}
            marker = "osv^D<>P*"[k % 9]
            panel.errorbar(
                budgets,
                means,
                spread,
                marker=marker,
                markersize=5,
                capsize=2,
                label=method,
                **style,
            )
        panel.set(title=supernet, xscale="log", xlabel="share of the supernet's MACs")
        ticks = sorted({r["budget"] for r in rows})
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.minorticks_off()
        panel.grid(alpha=0.25)
    panels[0][0].set_ylabel("test accuracy, %")
    panels[0][-1].legend(fontsize=8, loc="lower right")
    _save(figure, path)


def draw_widths(rows: Rows, budget: float, path: Path) -> None:
    """Draw the channels that PaS keeps in each group at one budget, beside uniform widths."""
    supernets = list(dict.fromkeys(row["supernet"] for row in rows))
    figure, panels = pyplot.subplots(
        len(supernets), 1, figsize=(8, 2.9 * len(supernets)), squeeze=False, layout="constrained"
    )
    for panel, supernet in zip(panels[:, 0], supernets, strict=True):
        mine = [r for r in rows if (r["supernet"], r["budget"]) == (supernet, budget)]
        uniform = [r for r in mine if r["method"].startswith("uniform")]
        for method, style in _WIDTHS.items():
            for row in (r for r in mine if r["method"] == method):
                panel.plot(*zip(*row["widths"].items(), strict=True), label=method, **style)
        for row in uniform[:1]:
            panel.plot(
                *zip(*row["widths"].items(), strict=True), "--", color="0.6", label="uniform"
            )
        panel.set(title=f"{supernet}, {budget:g} of the MACs", ylabel="channels open")
        panel.set_yscale("log", base=2)
        panel.yaxis.set_major_formatter("{x:g}")
        panel.tick_params(axis="x", rotation=60, labelsize=7)
        panel.grid(alpha=0.25)
        handles, labels = panel.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        panel.legend(unique.values(), unique.keys(), fontsize=8)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
