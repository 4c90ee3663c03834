"""The best PaS trial at each budget, beside the supernet and a uniformly narrowed network.

One command runs the sweep (or takes it as it is, if it has run), then trains the rivals by the
same recipe: for as many epochs in total (pre-training + search + fine-tuning), as many runs per
budget as PaS had trials, learning rates spread evenly over the range Optuna chose from; the run
with the best validation accuracy counts, as with PaS. The test split is only reported.

    python benchmarks/uniform_control.py examples/cifar10.yaml --set data.root=data/cifar10
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from orchestrator.config import SweepConfig
from orchestrator.home import Home
from orchestrator.loading import load_sweep
from pas_trainer import (
    OptimizerConfig,
    PretrainConfig,
    SupernetTraining,
    content_key,
    open_sources,
    train_supernet,
)
from pas_trainer.data.sources import Sources
from search_space import SupernetConfig, build_supernet, trace_channels


def main() -> None:
    """Run the comparison and print it as a table and as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?", default=Path("examples/cifar10.yaml"))
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--out", type=Path, default=None, help="also write the rows as JSON")
    options = parser.parse_args()
    config = load_sweep(options.file, options.overrides)
    rows = pas_rows(options.file, options.overrides) + control_rows(config)
    rows.sort(key=lambda row: (-row["budget"], row["network"]))
    print(f"{'budget':>7} {'network':42} {'of MACs':>8} {'validation':>10} {'test':>7} {'runs':>5}")
    for row in rows:
        print(
            f"{row['budget']:7.3f} {row['network']:42} {row['macs_ratio']:8.4f} "
            f"{row['accuracy']:10.4f} {row['test_accuracy']:7.4f} {row['runs']:5d}"
        )
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


def pas_rows(file: Path, overrides: list[str]) -> list[dict[str, Any]]:
    """Run the sweep and return the best trial per budget (by validation accuracy)."""
    command = [sys.executable, "-m", "orchestrator", "sweep", str(file), "--json"]
    for override in overrides:
        command += ["--set", override]
    document = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    finished = [t for t in document["trials"] if t["status"] == "FINISHED"]
    rows = []
    for budget in sorted({t["budget"] for t in finished}):
        mine = [t for t in finished if t["budget"] == budget]
        best = max(mine, key=lambda t: t["accuracy"])
        rows.append(_row(budget, "PaS, best trial", best, len(mine)))
    return rows


def control_rows(config: SweepConfig) -> list[dict[str, Any]]:
    """Train the rivals, as many at a time as there are cores."""
    runs = len(config.strengths) * config.trials_per_cell
    total = config.pretrain.epochs + config.search.epochs + config.finetune.epochs
    width = float(config.supernet.options.get("width", 1.0))
    sources = open_sources(config.data)
    full = _macs(config, sources, width)
    contestants = [(1.0, f"supernet, {total} epochs", width)]
    for limit in config.budget.numbers:
        narrow = _widest(config, sources, width, limit * full if limit <= 1 else limit)
        contestants.append((limit, f"uniform width from scratch, {total} epochs", narrow))
    jobs = [
        (_training(config, factor, total, rate, seed), budget, name)
        for budget, name, factor in contestants
        for seed, rate in enumerate(_rates(config, runs))
    ]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        results = list(pool.map(_train, [job for job, _, _ in jobs]))
    rows = []
    for budget, name, _ in contestants:
        mine = [r for r, job in zip(results, jobs, strict=True) if job[1:] == (budget, name)]
        best = max(mine, key=lambda r: r["accuracy"])
        best["macs_ratio"] = best["macs"] / full
        rows.append(_row(budget, name, best, len(mine)))
    return rows


def _row(budget: float, name: str, best: dict[str, Any], runs: int) -> dict[str, Any]:
    keys = ("macs_ratio", "accuracy", "test_accuracy")
    return {"budget": budget, "network": name, **{k: best[k] for k in keys}, "runs": runs}


def _rates(config: SweepConfig, runs: int) -> list[float]:
    given = config.hyperparameters.get("learning_rate")
    if given is None:
        return [config.optimizer.learning_rate] * runs
    low, high = math.log(given.low), math.log(given.high)
    return [math.exp(low + (i + 0.5) / runs * (high - low)) for i in range(runs)]


def _training(
    config: SweepConfig, width: float, epochs: int, rate: float, seed: int
) -> SupernetTraining:
    return SupernetTraining(
        data=config.data,
        supernet=SupernetConfig(name=config.supernet.name, options={"width": width}),
        optimizer=dataclasses.replace(
            config.optimizer,
            learning_rate=rate,
            gate_learning_rate=OptimizerConfig().gate_learning_rate,  # no gates: no effect
        ),
        pretrain=PretrainConfig(epochs=epochs),
        seed=seed + 1,
        device=config.device,
    )


def _train(training: SupernetTraining) -> dict[str, Any]:
    torch.set_num_threads(1)
    folder = Home.from_environment().root / "controls" / content_key(training)
    return dataclasses.asdict(train_supernet(training, folder))


def _widest(config: SweepConfig, sources: Sources, width: float, limit: float) -> float:
    """Return the largest common width factor whose network costs at most ``limit`` MACs."""
    factors = [width * step / 512 for step in range(1, 513)]
    return max(f for f in factors if _macs(config, sources, f) <= limit)


def _macs(config: SweepConfig, sources: Sources, width: float) -> int:
    shape = (1, sources.channels, sources.image_size, sources.image_size)
    with torch.device("meta"):
        network = build_supernet(
            config.supernet.name, len(sources.classes), sources.channels, width=width
        )
    return trace_channels(network, torch.empty(shape)).count_macs()


if __name__ == "__main__":
    main()
