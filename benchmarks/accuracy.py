"""PaS beside other ways to choose channel widths: accuracy at equal training compute.

Every network of a row is trained by the same recipe within the same number of MACs x images, all
phases counted. Choices were made on the validation split; the test split is only reported.

    python benchmarks/accuracy.py --data data/cifar10                 # CPU; hours on two cores
    python benchmarks/accuracy.py --data data/cifar10 --setup long    # all images, narrow networks
    python benchmarks/accuracy.py --data data/cifar10 --setup gpu     # the same for a GPU
    python benchmarks/accuracy.py --data data/cifar10 --setup full    # full size, full epochs
    python benchmarks/accuracy.py --data data/cifar10 --method PaS --budget 0.25

Rows are kept in ``results/accuracy_<setup>.json`` as they come; those that are there already are
not run again, unless what they depend on has changed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rivals.charts import draw_accuracy, draw_widths
from rivals.methods import METHODS, train_network
from rivals.setups import BUDGETS, SETUPS

from pas_trainer import content_key

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One network to train."""

    setup: str
    supernet: str
    method: str
    budget: float
    seed: int
    root: Path

    def key(self) -> str:
        """Hash of all that the result depends on but the code and where the images lie."""
        setup = SETUPS[self.setup]
        trial = setup.trial(Path("images"), self.supernet, self.budget, self.seed)
        return content_key(trial, [self.method, setup.pretrain_epochs, setup.total_epochs])


def main() -> None:
    """Train what is asked for, print the table, keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=Path("data/cifar10"), help="folder with train/ and test/"
    )
    parser.add_argument("--setup", choices=SETUPS, default="cpu")
    parser.add_argument("--supernet", action="append", help="only this one (repeatable)")
    parser.add_argument("--method", action="append", choices=METHODS, help="only this one")
    parser.add_argument("--budget", action="append", type=float, help="only this one")
    parser.add_argument("--seed", action="append", type=int, help="instead of the set-up's")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="networks at a time")
    parser.add_argument("--out", type=Path, help="file of the rows")
    parser.add_argument("--pictures", type=Path, help="folder to draw accuracy.png, widths.png in")
    options = parser.parse_args()
    setup = SETUPS[options.setup]
    unknown = set(options.supernet or ()) - set(setup.supernets)
    if unknown:
        parser.error(f"--supernet {unknown.pop()}: known: {', '.join(setup.supernets)}")
    if not (options.data / "train").is_dir():
        parser.error(f"--data {options.data}: there is no folder train in it")
    path = options.out or RESULTS / f"accuracy_{options.setup}.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    wanted = [
        Job(
            setup=options.setup,
            supernet=supernet,
            method=method,
            budget=budget,
            seed=seed,
            root=options.data,
        )
        for seed in options.seed or setup.seeds
        for supernet in options.supernet or setup.supernets
        for method in options.method or METHODS
        for budget in options.budget or BUDGETS
        if method != "supernet" or budget == max(options.budget or BUDGETS)
    ]
    known = {row["key"] for row in rows}
    console = Console()
    for row in _run([job for job in wanted if job.key() not in known], options.jobs, console):
        rows.append(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows, indent=1) + "\n")
    keys = {job.key() for job in wanted}
    mine = [row for row in rows if row["key"] in keys]
    for supernet in options.supernet or setup.supernets:
        console.print(
            _table(options.setup, supernet, [r for r in mine if r["supernet"] == supernet])
        )
    if options.pictures:
        draw_accuracy(mine, list(METHODS), options.pictures / "accuracy.png")
        draw_widths(mine, 0.25, options.pictures / "widths.png")


def _run(jobs: list[Job], workers: int, console: Console) -> Iterator[dict[str, Any]]:
    """Yield rows as networks are done; their supernets are trained first."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context) as pool, Progress(console=console) as progress:
        supernets = {(job.supernet, job.seed): job for job in jobs}
        bar = progress.add_task("supernets", total=len(supernets))
        for trained in as_completed([pool.submit(_supernet, job) for job in supernets.values()]):
            trained.result()
            progress.advance(bar)
        bar = progress.add_task("networks", total=len(jobs))
        for done in as_completed([pool.submit(_network, job) for job in jobs]):
            row = done.result()
            progress.advance(bar)
            progress.console.print(
                f"{row['supernet']} {row['method']} at {row['budget']}, seed {row['seed']}: "
                f"{row['accuracy']:.4f} validation, {row['seconds']:.0f} s",
                highlight=False,
            )
            yield row


def _supernet(job: Job) -> Path:
    torch.set_num_threads(1)
    return SETUPS[job.setup].trained_supernet(job.root, job.supernet, job.seed)


def _network(job: Job) -> dict[str, Any]:
    folder, setup, start = _supernet(job), SETUPS[job.setup], time.monotonic()
    trial = setup.trial(job.root, job.supernet, job.budget, job.seed)
    result = train_network(job.method, trial, folder, setup.total_epochs)
    return {
        "key": job.key(),
        "supernet": job.supernet,
        "method": job.method,
        "budget": job.budget,
        "seed": job.seed,
        "macs_ratio": result.macs_ratio,
        "training_macs": result.training_macs,
        "accuracy": result.score,
        "test_accuracy": result.test_score,
        "seconds": round(time.monotonic() - start, 1),
        "widths": dict(result.widths),
    }


def _table(setup: str, supernet: str, rows: list[dict[str, Any]]) -> Table:
    """Mean and deviation over seeds, in percent: test, and validation in brackets."""
    table = Table(title=f"{supernet}, set-up {setup}: test accuracy in %", box=None)
    table.add_column("method")
    budgets = sorted({row["budget"] for row in rows}, reverse=True)
    for budget in budgets:
        table.add_column(f"{budget:g} of the MACs", justify="right")
    for method in METHODS:
        cells = []
        for budget in budgets:
            mine = [r for r in rows if (r["method"], r["budget"]) == (method, budget)]
            cells.append(_cell(mine))
        if any(cells):
            table.add_row(method, *cells)
    return table


def _cell(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    test = [100 * row["test_accuracy"] for row in rows]
    validation = statistics.mean(100 * row["accuracy"] for row in rows)
    deviation = f" ± {statistics.stdev(test):.1f}" if len(test) > 1 else ""
    return f"{statistics.mean(test):.1f}{deviation} ({validation:.1f})"


if __name__ == "__main__":
    main()
