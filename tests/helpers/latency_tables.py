"""A latency table with a closed form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from search_space import LatencyGrid, LatencyTable, build_supernet, trace_channels
from search_space.operators import network_signature


def write_product_table(folder: Path) -> Path:
    """Write one for repvgg_tiny of half width: microseconds are channels read x written."""
    torch.manual_seed(0)
    graph = trace_channels(build_supernet("repvgg_tiny", 10, 1, width=0.5), torch.empty(1, 1, 8, 8))
    grids = {}
    for operator in graph.operators:
        read, written = (tuple(sorted({1, channels})) for channels in operator.full)
        ms = tuple(tuple(1e-3 * r * w for w in written) for r in read)
        grids[operator.signature] = LatencyGrid(read, written, ms)
    table = LatencyTable("a test", grids, {network_signature(graph.operators): 1.0})
    (folder / "latency.json").write_text(table.to_json())
    return folder / "latency.json"


def smooth(path: Path) -> None:
    """Give the operators of a measured table times that grow with channels, as on an idle machine.

    Where others disturb the measurement, no widths may come near a limit.
    """
    table = LatencyTable.from_json(path.read_text())
    grids = {
        signature: replace(
            grid, ms=tuple(tuple(1e-3 * r * w for w in grid.written) for r in grid.read)
        )
        for signature, grid in table.grids.items()
    }
    path.write_text(replace(table, grids=grids).to_json())
