"""Rows as a table for the terminal and as a page of the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

_TITLES = {
    "classification": "torchvision's classification networks",
    "family": "Our own families",
    "segmentation": "Segmentation",
    "detection": "Detection and instance segmentation, searched in parts",
}

_INTRODUCTION = """# Which networks can be searched

Made by `python benchmarks/networks.py --all`, which runs every check below on every network and
ends with exit code 1 if one fails. `make bench` does it for a dozen of them. The figures behind
this page are in `benchmarks/results/networks.json`.

{summary}

## How it is checked

Each network gets random weights, random norm parameters, and norm statistics drawn around those
of its own activations, so that nothing vanishes or explodes with depth. About half of its units
are closed at random, and they are removed.

- **Sliced equals gated**: largest difference of the outputs over their largest value, evaluation
  mode, float64; must be below 1e-9. Closing the gates must change the outputs by more than 1e-3,
  or such a comparison would prove nothing.
- **Costs**: MACs equal those that `torch.utils.flop_counter` counts (it counts two operations per
  MAC), parameters the real ones, both of the full and of the sliced network, exactly. Of our own
  families it is the deploy form that counts.
- **Training**: forward and backward of the sliced network in training mode run, and every
  parameter gets a finite gradient.
- **Export**: the sliced network in float32 after `torch.export`, and after ONNX export as ONNX
  Runtime computes it; relative differences must be below 1e-4.

## How to read it

*Searchable* is the share of the MACs in layers that read or write channels a search can close.
*Kept* is the share of the MACs that random closing left. *Seconds* are CPU seconds of one thread;
they depend on the machine. Image sizes are small where the
network allows, to save time; they change neither groups nor shares much. `ok` in the last column
means that all checks passed.
"""


def table_row(name: str, row: Row) -> dict[str, str]:
    """Return the cells of one network by column; figures that are missing are left blank."""

    def cell(key: str, form: str, factor: float = 1.0) -> str:
        return format(row[key] * factor, form) if key in row else ""

    return {
        "network": name,
        "pixels": cell("image_size", ".0f"),
        "groups": cell("num_groups", ".0f"),
        "units": cell("num_units", ",.0f"),
        "M MACs": cell("macs", ",.0f", 1e-6),
        "M params": cell("num_params", ",.1f", 1e-6),
        "searchable": cell("searchable_share", ".1%"),
        "kept": cell("kept_share", ".1%"),
        "trace s": cell("trace_seconds", ".1f"),
        "slice s": cell("slice_seconds", ".1f"),
        "sliced vs gated": cell("sliced_difference", ".0e"),
        "torch.export": cell("export_difference", ".0e"),
        "ONNX": cell("onnx_difference", ".0e"),
        "checks": "; ".join(row["failures"]) or "ok",
    }


def write_page(path: Path, rows: Mapping[str, Row], missing: Sequence[str]) -> None:
    """Write the page for these rows, sections by kind; ``missing`` networks have no row yet."""
    failed = [name for name, row in rows.items() if row["failures"]]
    summary = f"{len(rows)} networks, {len(rows) - len(failed)} of them without any failed check"
    summary += f"; failed: {', '.join(failed)}." if failed else "."
    if missing:
        summary += f"\nNot yet checked: {', '.join(missing)}."
    text = _INTRODUCTION.format(summary=summary)
    for kind, title in _TITLES.items():
        mine = {n: row for n, row in rows.items() if row.get("kind", "classification") == kind}
        if mine:
            text += f"\n## {title}\n\n{_NOTES.get(kind, '')}{_markdown(mine)}"
    path.write_text(text + _pinned(rows))


_NOTES = {
    "detection": (
        "A detector's code depends on values (which boxes are left), so that neither torch.fx nor\n"
        "torch.export follow it as a whole: searched, and exported on what reaches them, are its\n"
        "parts: `backbone`, `roi_heads.box_head`, and for masks `roi_heads.mask_head` and\n"
        "`roi_heads.mask_predictor`. Sliced and gated outputs are those of the whole detector.\n"
        "MACs are those of the parts, the heads' for one region.\n\n"
    ),
    "segmentation": "`deeplabv3_resnet50` is searched in its `backbone` and `classifier`.\n\n",
}


def _markdown(rows: Mapping[str, Row]) -> str:
    cells = [table_row(name, row) for name, row in rows.items()]
    lines = [list(cells[0]), ["---", *["--:"] * (len(cells[0]) - 2), "---"]]
    lines += [list(row.values()) for row in cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _pinned(rows: Mapping[str, Row]) -> str:
    """List what keeps channels from being searched, one line per reason."""
    networks: dict[str, list[str]] = {}
    examples: dict[str, str] = {}
    for name, row in rows.items():
        for pinned in row.get("pinned", []):
            networks.setdefault(pinned["reason"], []).append(name)
            examples.setdefault(pinned["reason"], f"`{pinned['example']}` of {name}")
    text = "\n## What is pinned, and why\n\n"
    if not networks:
        return text + "Nothing: every operation is understood.\n"
    text += (
        "Channels that reach one of these keep their number; everything else in the network is\n"
        "searched. `graph.unsupported_ops()` names each place.\n\n"
        "| reason | first place | networks |\n| --- | --- | --- |\n"
    )
    for reason, names in sorted(networks.items()):
        text += f"| {reason} | {examples[reason]} | {', '.join(names)} |\n"
    return text
