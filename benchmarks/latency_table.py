"""Latency predicted from a table of measured operators, beside the measured network.

Each network is narrowed (the same share of every channel group, and widths drawn at random), really
sliced, brought into deploy form and timed; predicted and measured milliseconds stand side by side.
The table is measured in the same run, on one CPU thread, batch 1; then all widths of a network are
timed in turns, so that a slow minute hits all alike. Nothing else should run on the machine.

    python benchmarks/latency_table.py --networks resnet18 repvgg_a0 --image-size 112
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from search_space import (
    ChannelGraph,
    LatencyTarget,
    build_supernet,
    graph_with_latency,
    measure_latency_table,
    slice_network,
    supernet_names,
    trace_channels,
)
from search_space.latency_measurement import measure_whole_ms

RESULTS = Path(__file__).parent / "results" / "latency_table.json"
TURNS = 7
"""Times that each network is measured, for a second each."""


def main() -> None:
    """Measure, predict, print a table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["resnet18", "mobilenet_v2", "repvgg_a0"])
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--seconds", type=float, default=60, help="for each network's table")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS, help="rows as JSON")
    options = parser.parse_args()
    target = LatencyTarget(device=options.device, channels_last=options.channels_last)
    print(target.key)
    header = f"{'network':14} {'widths':8} {'of MACs':>8}"
    print(f"{header} {'measured ms':>12} {'predicted ms':>13} {'ratio':>6}")
    rows = []
    for name in options.networks:
        found = rows_of(name, options.image_size, target, options.seconds)
        for row in found:
            print(
                f"{row['network']:14} {row['widths']:8} {row['macs_ratio']:8.3f} "
                f"{row['measured_ms']:12.3f} {row['predicted_ms']:13.3f} {row['ratio']:6.2f}"
            )
        print(f"{name}: its table took {found[0]['table_seconds']:.0f} s", flush=True)
        rows += found
    options.out.write_text(json.dumps(rows, indent=1) + "\n")


def rows_of(
    name: str, image_size: int, target: LatencyTarget, seconds: float
) -> list[dict[str, Any]]:
    """Measure one network's table, then predict and measure it at several widths."""
    torch.manual_seed(0)
    known = name in supernet_names()
    model = build_supernet(name, 1000) if known else torchvision.models.get_model(name)
    graph = trace_channels(model, torch.empty(1, 3, image_size, image_size))
    start = time.perf_counter()
    graph = graph_with_latency(graph, measure_latency_table(graph, model, target, seconds=seconds))
    table_seconds = time.perf_counter() - start
    sets = _width_sets(graph.full_widths())
    measured = _measured_in_turns(
        graph,
        {
            label: slice_network(model, graph, {name: range(w) for name, w in widths.items()})
            for label, widths in sets.items()
        },
        target,
    )
    rows = []
    for label, widths in sets.items():
        predicted = graph.count("latency_ms", widths)
        rows.append(
            {
                "network": name,
                "widths": label,
                "macs_ratio": graph.count_macs(widths) / graph.count_macs(),
                "measured_ms": measured[label],
                "predicted_ms": predicted,
                "ratio": predicted / measured[label],
                "table_seconds": table_seconds,
            }
        )
    return rows


def _measured_in_turns(
    graph: ChannelGraph, networks: Mapping[str, nn.Module], target: LatencyTarget
) -> dict[str, float]:
    """Return the median milliseconds of one pass, by network."""
    samples: dict[str, list[float]] = {label: [] for label in networks}
    for _ in range(TURNS):
        for label, network in networks.items():
            samples[label].append(measure_whole_ms(graph, network, target, seconds=1))
    return {label: statistics.median(found) for label, found in samples.items()}


def _width_sets(full: Mapping[str, int]) -> dict[str, dict[str, int]]:
    sets = {}
    for share in (1.0, 0.75, 0.5, 0.25):
        sets[f"{share:g}"] = {name: max(1, int(size * share)) for name, size in full.items()}
    for seed in (0, 1):
        draw = random.Random(seed)  # noqa: S311 - no secrets here
        sets[f"random {seed}"] = {
            name: draw.randint(max(1, size // 4), size) for name, size in full.items()
        }
    return sets


if __name__ == "__main__":
    main()
