"""A front of five budgets from one annealed search, beside other ways to get one.

By as many separate searches, which take longer; and, within the compute that the annealed front
takes, supernet included: uniform widths trained from scratch, uniform slices of the supernet, and
slices by a global L1 criterion. Those train the five networks for equally many epochs. In a chain,
each network is sliced out of the one before it, as in the annealed front, and takes the compute
that search and training take there.

    python benchmarks/annealed_front.py --data data/cifar10

Rows are kept in ``results/annealed_front_<setup>.json`` as they come; those that are there already
are not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import multiprocessing
import os
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rivals.charts import draw_accuracy
from rivals.methods import METHODS, Rival
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
from pas_trainer.compute import TrialCompute, epochs_within, training_macs
from pas_trainer.supernet import new_supernet
from search_space import Budget, slice_network, uniform_widths

RESULTS = Path(__file__).parent / "results"
LIMITS = (0.5, 0.35, 0.25, 0.18, 0.125)
OURS, SEPARATE, SCRATCH = "annealed", "separate searches", "uniform from scratch"
ANNEALED: dict[str, dict[str, float]] = {
    OURS: {},
    "annealed, large batches": {},
    "annealed, last scores": {"average": 0.0},
    "annealed, halfway to uniform": {"toward_uniform": 0.5},
}
"""Our ways, and what they change of the search."""
_LARGE = ("annealed, large batches", "annealed, last scores")
"""Which of them take the recipe's batches."""
CHAINS = {"chain of uniform slices": "uniform slices", "chain by global L1": "L1 global"}
SINGLE = (SEPARATE, SCRATCH, "uniform slices", "L1 global")
WAYS = (*ANNEALED, *CHAINS, *SINGLE)
JOBS = [*((way, LIMITS[0]) for way in (*ANNEALED, *CHAINS)), *itertools.product(SINGLE, LIMITS)]
"""A whole front is one job where its networks depend on each other."""


def main() -> None:
    """Run every way for every seed, print the tables, keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=Path("data/cifar10"), help="folder with train/ and test/"
    )
    parser.add_argument("--setup", choices=SETUPS, default="cpu")
    parser.add_argument("--supernet", action="append", help="only this one (repeatable)")
    parser.add_argument("--way", action="append", choices=WAYS, help="only this one (repeatable)")
    parser.add_argument("--finetune-epochs", type=int, default=10, help="at the loosest budget")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    parser.add_argument("--out", type=Path, help="file of the rows")
    parser.add_argument("--picture", type=Path, help="PNG to draw")
    options = parser.parse_args()
    setup = SETUPS[options.setup]
    supernets = options.supernet or list(setup.supernets)
    if unknown := set(supernets) - set(setup.supernets):
        parser.error(f"--supernet {unknown.pop()} is not one of set-up {options.setup}")
    if not (options.data / "train").is_dir():
        parser.error(f"--data {options.data}: there is no folder train in it")
    path = options.out or RESULTS / f"annealed_front_{options.setup}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    num_epochs = options.finetune_epochs
    known = {
        (r["supernet"], r["seed"], r["way"], r["budget"])
        for r in rows
        if r["finetune_epochs"] == num_epochs
    }
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, context) as pool:
        starts = list(itertools.product(setup.seeds, supernets))
        wanted = [
            (supernet, seed, way, limit)
            for (seed, supernet), (way, limit) in itertools.product(starts, JOBS)
            if way in (options.way or WAYS) and (supernet, seed, way, limit) not in known
        ]
        needed = {(seed, supernet) for supernet, seed, *_ in wanted}
        for trained in [pool.submit(_supernet, options, *start) for start in sorted(needed)]:
            trained.result()
        for done in as_completed([pool.submit(_run, options, *job) for job in wanted]):
            rows.extend(done.result())
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(rows, indent=1) + "\n")
    mine = [
        r
        for r in rows
        if r["supernet"] in supernets
        and r["finetune_epochs"] == num_epochs
        and r["way"] in (options.way or WAYS)
    ]
    if options.picture:
        draw_accuracy([r | {"method": r["way"]} for r in mine], WAYS, options.picture, OURS)
    for supernet in supernets:
        Console().print(_table(supernet, [r for r in mine if r["supernet"] == supernet]))


def _supernet(options: argparse.Namespace, seed: int, supernet: str) -> Path:
    torch.set_num_threads(1)
    return SETUPS[options.setup].trained_supernet(options.data, supernet, seed)


def _run(
    options: argparse.Namespace, supernet: str, seed: int, way: str, limit: float
) -> list[dict[str, Any]]:
    folder, setup = _supernet(options, seed, supernet), SETUPS[options.setup]
    trial = setup.trial(options.data, supernet, LIMITS[0], seed)
    trial = dataclasses.replace(trial, finetune=FinetuneConfig(epochs=options.finetune_epochs))
    annealed = AnnealedConfig(
        trial=trial, further=tuple(Budget(resource="macs", limit=limit) for limit in LIMITS[1:])
    )
    found: dict[int, TrialResult] = {}
    step = LIMITS.index(limit)
    if way in ANNEALED:
        large = {"batch_size": trial.optimizer.batch_size} if way in _LARGE else {}
        run_annealed(_with(annealed, ANNEALED[way] | large), folder, found.__setitem__)
    elif way in CHAINS:
        found = _chain(CHAINS[way], annealed, folder)
    else:
        own = dataclasses.replace(trial, budget=annealed.budgets[step])
        found[step] = (
            run_search(own, folder) if way == SEPARATE else _rival(way, own, annealed, folder)
        )
    trained = read_supernet_result(folder)
    assert trained is not None
    before = (0 if way == SCRATCH else trained.training_macs) or 0
    return [
        {
            "supernet": supernet,
            "seed": seed,
            "way": way,
            "budget": LIMITS[k],
            "finetune_epochs": options.finetune_epochs,
            "macs_ratio": result.macs_ratio,
            "accuracy": result.score,
            "test_accuracy": result.test_score,
            "widths": dict(result.widths),
            "supernet_macs": before,
            "training_macs": (result.training_macs or 0) - before,
        }
        for k, result in found.items()
    ]


def _with(annealed: AnnealedConfig, options: dict[str, float]) -> AnnealedConfig:
    search = dataclasses.replace(annealed.trial.search, **options)  # type: ignore[arg-type]
    return dataclasses.replace(annealed, trial=dataclasses.replace(annealed.trial, search=search))


def _chain(method: str, annealed: AnnealedConfig, folder: Path) -> dict[int, TrialResult]:
    """Train one network per budget, each sliced out of the one before it."""
    found: dict[int, TrialResult] = {}
    for step in range(len(annealed.budgets)):
        rival = Rival(annealed.at(step), folder)
        front = _front_compute(annealed, rival.full_macs, len(rival.data.train))
        rival.total_macs = rival.spent + sum(front[: step + 1])
        if step:
            rival.go_on_from(found[step - 1])
        found[step] = METHODS[method](rival)
    return found


def _rival(way: str, config: TrialConfig, annealed: AnnealedConfig, folder: Path) -> TrialResult:
    """Train one network on its share of the compute of the annealed front."""
    rival = Rival(config, folder)
    full, images = rival.full_macs, rival.compute.epoch_images
    front = sum(_front_compute(annealed, full, len(rival.data.train)))
    if way == SCRATCH:
        front, rival.spent = front + rival.spent, 0
    epochs = epochs_within(front, round(full * sum(LIMITS)), images)
    macs = round(config.budget.absolute(rival.graph))
    rival.total_macs = rival.spent + rival.compute.recalibration(macs)
    rival.total_macs += training_macs(macs, images, epochs)
    if way != SCRATCH:
        return METHODS[way](rival)
    widths = uniform_widths(rival.graph, config.budget, config.width_rules)
    kept = {name: list(range(width)) for name, width in widths.items()}
    torch.manual_seed(config.seed)
    network = slice_network(
        new_supernet(config.supernet, rival.task, rival.data), rival.graph, kept
    )
    rival.finetune(network, rival.graph.count_macs(widths))
    return rival.measure(kept, network, rival.spent)


def _front_compute(annealed: AnnealedConfig, full: int, num_train: int) -> list[int]:
    """Return what each budget of the annealed front takes, every network at its limit."""
    shares = itertools.pairwise((1.0, *LIMITS))
    return [
        TrialCompute.of(annealed.at(step), round(before * full), num_train).trial(round(at * full))
        for step, (before, at) in enumerate(shares)
    ]


def _table(supernet: str, rows: list[dict[str, Any]]) -> Table:
    """Mean and deviation of the test accuracy over the seeds, in percent, and the compute."""
    table = Table(title=f"{supernet}: test accuracy in % (validation)", box=None)
    table.add_column("way")
    for limit in LIMITS:
        table.add_column(f"{limit:g} of the MACs", justify="right")
    table.add_column("compute", justify="right")
    spent = {way: _compute(way, rows) for way in WAYS}
    for way in WAYS:
        cells = [_cell([r for r in rows if (r["way"], r["budget"]) == (way, x)]) for x in LIMITS]
        if all(cells):
            table.add_row(way, *cells, f"{spent[way] / spent[OURS]:.2f}" if spent[OURS] else "")
    first, whole = (
        sum(r["training_macs"] for r in rows if (r["way"], r["budget"]) == (OURS, limit))
        for limit in (LIMITS[0], LIMITS[-1])
    )
    if first:  # the supernet apart, which both start from
        table.caption = f"compute of the annealed front over its first trial's: {whole / first:.2f}"
    return table


def _compute(way: str, rows: list[dict[str, Any]]) -> float:
    """Return what a whole front takes, the supernet included, in mean over the seeds."""
    mine = [row for row in rows if row["way"] == way]
    totals = []
    for seed in {row["seed"] for row in mine}:
        spent = [row["training_macs"] for row in mine if row["seed"] == seed]
        # In a chain the last network started from all the others.
        own = sum(spent) if way in SINGLE else max(spent)
        totals.append(own + mine[0]["supernet_macs"])
    return statistics.mean(totals) if totals else 0.0


def _cell(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    test = [100 * row["test_accuracy"] for row in rows]
    deviation = f" ± {statistics.stdev(test):.1f}" if len(test) > 1 else ""
    validation = statistics.mean(100 * row["accuracy"] for row in rows)
    return f"{statistics.mean(test):.1f}{deviation} ({validation:.1f})"


if __name__ == "__main__":
    main()
