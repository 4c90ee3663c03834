"""Latency of the forms of a network, side by side: does saving MACs save time?

Supernet and a network of a quarter of its MACs, each with its training branches and
reparameterized, in torch and in ONNX Runtime (float and int8), on one CPU thread. The widths are
drawn at random per layer before they are fitted onto the budget, so that they are as uneven as a
search's. All forms take turns, timed by the thread's CPU time; every ratio is formed within a
round.

    python benchmarks/latency.py
    python benchmarks/latency.py --networks repvgg_a0 mobileone_s0 --image-size 224
    python benchmarks/latency.py --exported FOLDER      # the files of `pas export MODEL --int8`
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from in_turns import clock_of, quartiles_of_ratio, time_in_turns
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from deploy import load_architecture
from deploy.export_folder import INT8_FILE, ONNX_FILE, PROGRAM_FILE
from deploy.onnx_export import INPUT, onnx_network
from deploy.quantization import quantize_onnx
from pas_trainer import reparameterize
from search_space import (
    Budget,
    ChannelGraph,
    WidthRules,
    build_supernet,
    fit_widths,
    trace_channels,
)
from search_space.slicing import slice_network

RESULTS = Path(__file__).parent / "results" / "latency.json"
LIMIT = 0.25
SLICED_GOAL, REPARAM_GOAL = 2.5, 1.5
"""Least speed-up of the sliced over the full network, both in deploy form, and of a network in
deploy form over itself with branches."""

Run = Callable[[], Any]


def main() -> None:
    """Measure, print a table per network and batch, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["repvgg_a0"])
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--exported", type=Path, help="measure this folder's files, write nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console, results = Console(), []
    if options.exported is not None:
        for batch_size in options.batch_sizes:
            console.print(exported_table(options.exported, batch_size, options.rounds))
        return
    for name in options.networks:
        forms, macs_ratio = forms_of(name, options.image_size)
        for batch_size in options.batch_sizes:
            images = torch.rand(batch_size, 3, options.image_size, options.image_size)
            rounds = max(5, options.rounds // batch_size)
            found = {
                "network": name,
                "image_size": options.image_size,
                "batch_size": batch_size,
                "rounds": rounds,
                "macs_ratio": macs_ratio,
                "forms": measure(forms, images, rounds),
            }
            results.append(found)
            console.print(_table(found))
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(
        json.dumps({"torch": torch.__version__, "results": results}, indent=1) + "\n"
    )


def forms_of(name: str, image_size: int) -> tuple[dict[str, nn.Module], float]:
    """Return the network's forms in evaluation mode, and the sliced one's share of the MACs."""
    torch.manual_seed(0)
    supernet = build_supernet(name, 1000).eval()
    graph = trace_channels(supernet, torch.empty(1, 3, image_size, image_size))
    widths = uneven_widths(graph)
    sliced = slice_network(supernet, graph, {n: range(w) for n, w in widths.items()}).eval()
    forms = {
        "supernet, branches": supernet,
        "supernet": reparameterize(supernet).eval(),
        "sliced, branches": sliced,
        "sliced": reparameterize(sliced).eval(),
    }
    return forms, graph.count_macs(widths) / graph.count_macs()


def uneven_widths(graph: ChannelGraph) -> dict[str, int]:
    """Return widths drawn at random and moved onto the budget."""
    draw = random.Random(0)  # noqa: S311 - no secrets here
    start = {
        group.name: max(1, round(group.size * draw.uniform(0.2, 0.8))) for group in graph.groups
    }
    return fit_widths(graph, Budget(resource="macs", limit=LIMIT), WidthRules(), start, {})


@torch.inference_mode()
def measure(
    forms: dict[str, nn.Module], images: Tensor, rounds: int
) -> dict[str, dict[str, float]]:
    """Return median milliseconds and speed-ups by form and engine."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            f"{form} | {engine}": run
            for form, network in forms.items()
            for engine, run in _runs(network, images, Path(folder)).items()
        }
    seconds = time_in_turns(runs, rounds, clock_of(torch.device("cpu"), threads=1))
    return {
        key: {
            "ms": statistics.median(times) * 1e3,
            "over_supernet": quartiles_of_ratio(seconds[f"supernet | {engine}"], times)[1],
            "over_branches": quartiles_of_ratio(
                seconds[f"{form.split(',')[0]}, branches | {engine}"], times
            )[1],
        }
        for key, times in seconds.items()
        for form, engine in [key.split(" | ")]
    }


def _runs(network: nn.Module, images: Tensor, folder: Path) -> dict[str, Run]:
    nhwc = images.contiguous(memory_format=torch.channels_last)
    network.to(memory_format=torch.channels_last)
    path = folder / "network.onnx"
    program = torch.onnx.export(network, (images,), dynamo=True, verbose=False, input_names=[INPUT])
    assert program is not None
    program.save(path, external_data=False)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images.numpy()}
    int8 = folder / "int8.onnx"
    quantize_onnx(path, int8, (images[:32] * 255).to(torch.uint8))
    smaller = onnx_network(int8, num_threads=1)
    return {
        "torch": lambda: network(nhwc),
        "ONNX Runtime": lambda: session.run(None, feed),
        "ONNX Runtime, int8": lambda: smaller(images),
    }


@torch.inference_mode()
def exported_table(folder: Path, batch_size: int, rounds: int) -> Table:
    """Return sizes and median milliseconds of the files of an exported folder."""
    architecture = load_architecture(folder)
    size = architecture.image_size
    images = torch.rand(batch_size, architecture.in_channels, size, size)
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        PROGRAM_FILE: torch.export.load(folder / PROGRAM_FILE).module()
    }
    for name in (ONNX_FILE, INT8_FILE):
        if (folder / name).exists():
            forms[name] = onnx_network(folder / name, num_threads=1)
    runs = {name: partial(form, images) for name, form in forms.items()}
    calls = max(1, 64 // batch_size)
    seconds = time_in_turns(runs, rounds, clock_of(torch.device("cpu"), threads=1), calls)
    table = Table(title=f"{folder}, batch {batch_size}, one CPU thread", box=None)
    for column in ("file", "KiB", "ms", "speed-up over pt2"):
        table.add_column(column)
    for name, times in seconds.items():
        speed_up = quartiles_of_ratio(seconds[PROGRAM_FILE], times)[1]
        kib = (folder / name).stat().st_size / 1024
        milliseconds = statistics.median(times) * 1e3
        table.add_row(name, f"{kib:.0f}", f"{milliseconds:.3f}", f"{speed_up:.2f}")
    return table


def _table(found: dict[str, Any]) -> Table:
    title = (
        f"{found['network']}, {found['image_size']} pixels, batch {found['batch_size']}, "
        f"sliced to {found['macs_ratio']:.3f} of the MACs, one CPU thread"
    )
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("form")
    table.add_column("engine")
    for column in ("ms", "speed-up over supernet", "over its own branches"):
        table.add_column(column, justify="right")
    for key, numbers in found["forms"].items():
        form, engine = key.split(" | ")
        cells = [f"{numbers[k]:.2f}" for k in ("ms", "over_supernet", "over_branches")]
        table.add_row(form, engine, *cells)
    sliced = found["forms"]["sliced | torch"]["over_supernet"]
    reparam = found["forms"]["supernet | torch"]["over_branches"]
    table.caption = (
        f"torch: sliced {sliced:.2f}x (goal {SLICED_GOAL}), "
        f"reparameterized {reparam:.2f}x (goal {REPARAM_GOAL})"
    )
    return table


if __name__ == "__main__":
    main()
