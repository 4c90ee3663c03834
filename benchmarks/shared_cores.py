"""What a training step costs when others want the same cores, with and without ``GOMP_SPINCOUNT``.

Threads that share a step wait for each other after every layer. OpenMP lets them spin meanwhile,
which is pointless on a core that the awaited thread needs; ``orchestrator`` has them sleep soon.
Here a network of six convolutions is trained on as many threads as there are cores, beside none,
one and two other processes that do nothing but compute.

    python benchmarks/shared_cores.py
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from in_turns import quartiles_of_ratio
from rich.console import Console
from rich.table import Table
from torch import nn

RESULTS = Path(__file__).parent / "results" / "shared_cores.json"
OTHERS = (0, 1, 2)
SPINS = "1000"
"""What ``orchestrator`` sets; not imported from it, which would set it here as well."""


def main() -> None:
    """Measure, print, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="processes per figure")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each")
    parser.add_argument("--step", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(_milliseconds_per_step(options.steps))
        return
    table = Table("others", "default, ms", f"{SPINS} spins, ms", "default over it", "quartiles")
    figures = {}
    for others in OTHERS:
        default, short = [], []
        with _busy(others):
            for _ in range(options.rounds):
                default.append(_measured(options.steps, None))
                short.append(_measured(options.steps, SPINS))
        low, middle, high = quartiles_of_ratio(default, short)
        medians = [statistics.median(default), statistics.median(short)]
        figures[others] = {"default_ms": medians[0], "short_ms": medians[1], "ratio": middle}
        milliseconds = (f"{value:.1f}" for value in medians)
        table.add_row(str(others), *milliseconds, f"{middle:.2f}", f"{low:.2f} to {high:.2f}")
    Console().print(table)
    document = {"torch": torch.__version__, "cores": os.cpu_count(), "others": figures}
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def _measured(steps: int, spins: str | None) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    if spins is not None:
        environment["GOMP_SPINCOUNT"] = spins
    command = [sys.executable, __file__, "--step", "--steps", str(steps)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def _milliseconds_per_step(steps: int) -> float:
    torch.set_num_threads(os.cpu_count() or 1)
    layers: list[nn.Module] = []
    for index in range(6):
        layers += [nn.Conv2d(32 if index else 3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    images, labels = torch.randn(64, 3, 8, 8), torch.randint(0, 10, (64,))
    for step in range(steps + 3):
        if step == 3:
            start = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return 1000 * (time.perf_counter() - start) / steps


if __name__ == "__main__":
    main()
