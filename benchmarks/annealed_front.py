"""A front of five budgets from one annealed search, beside five separate searches.

Prints each network's accuracy in both ways, and what the front cost: over one trial (search and
fine-tuning) at the loosest budget, and over the five separate trials.

    python benchmarks/annealed_front.py --data data/cifar10
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rivals.setups import SETUPS

from pas_trainer import (
    AnnealedConfig,
    FinetuneConfig,
    TrialConfig,
    TrialResult,
    read_supernet_result,
    run_annealed,
    run_search,
)
from search_space import Budget

RESULTS = Path(__file__).parent / "results" / "annealed_front.json"
LIMITS = (0.5, 0.35, 0.25, 0.18, 0.125)


def main() -> None:
    """Run both ways for every seed, print the table, keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=Path("data/cifar10"), help="folder with train/ and test/"
    )
    parser.add_argument("--setup", choices=SETUPS, default="cpu")
    parser.add_argument("--supernet", default="resnet")
    parser.add_argument("--finetune-epochs", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="seeds at a time")
    options = parser.parse_args()
    if options.supernet not in SETUPS[options.setup].supernets:
        parser.error(f"--supernet {options.supernet} is not one of set-up {options.setup}")
    if not (options.data / "train").is_dir():
        parser.error(f"--data {options.data}: there is no folder train in it")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, context) as pool:
        jobs = [pool.submit(_both_ways, options, seed) for seed in SETUPS[options.setup].seeds]
        rows = [row for job in jobs for row in job.result()]
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    Console().print(_table(rows))
    for text, ratio in _costs(rows).items():
        print(f"{text}: {ratio:.2f}")


def _both_ways(options: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    setup = SETUPS[options.setup]
    folder = setup.trained_supernet(options.data, options.supernet, seed)
    trained = read_supernet_result(folder)
    assert trained is not None
    assert trained.training_macs is not None
    trial = setup.trial(options.data, options.supernet, LIMITS[0], seed)
    trial = dataclasses.replace(trial, finetune=FinetuneConfig(epochs=options.finetune_epochs))
    budgets = [Budget(resource="macs", limit=limit) for limit in LIMITS]
    front: dict[int, TrialResult] = {}
    config = AnnealedConfig(trial=trial, further=tuple(budgets[1:]))
    run_annealed(config, folder, front.__setitem__)
    rows = []
    for step, budget in enumerate(budgets):
        separate = front[0] if step == 0 else _separate(trial, budget, folder)
        for way, result in (("annealed", front[step]), ("separate", separate)):
            rows.append(
                {
                    "seed": seed,
                    "way": way,
                    "budget": LIMITS[step],
                    "macs_ratio": result.macs_ratio,
                    "accuracy": result.accuracy,
                    "test_accuracy": result.test_accuracy,
                    "training_macs": (result.training_macs or 0) - trained.training_macs,
                }
            )
    return rows


def _separate(trial: TrialConfig, budget: Budget, folder: Path) -> TrialResult:
    return run_search(dataclasses.replace(trial, budget=budget), folder)


def _costs(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the front's compute, without the shared pre-training, over that of its rivals."""
    spent = {(r["seed"], r["way"], r["budget"]): r["training_macs"] for r in rows}
    seeds = {r["seed"] for r in rows}
    # What the last network took is what the whole front took.
    front = sum(spent[seed, "annealed", LIMITS[-1]] for seed in seeds)
    one = sum(spent[seed, "separate", LIMITS[0]] for seed in seeds)
    every = sum(spent[seed, "separate", limit] for seed in seeds for limit in LIMITS)
    return {
        "compute of the front over one trial at the loosest budget": front / one,
        "compute of the front over five separate trials": front / every,
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="test accuracy in %, mean over seeds (validation)", box=None)
    for column in ("of the MACs", "separate", "annealed", "difference"):
        table.add_column(column, justify="right")
    for limit in LIMITS:
        means = {
            (way, measure): statistics.mean(
                100 * r[measure] for r in rows if (r["way"], r["budget"]) == (way, limit)
            )
            for way in ("separate", "annealed")
            for measure in ("test_accuracy", "accuracy")
        }
        cells = [
            f"{means[way, 'test_accuracy']:.1f} ({means[way, 'accuracy']:.1f})"
            for way in ("separate", "annealed")
        ]
        gain = means["annealed", "test_accuracy"] - means["separate", "test_accuracy"]
        table.add_row(f"{limit:g}", *cells, f"{gain:+.1f}")
    return table


if __name__ == "__main__":
    main()
