"""What training costs, each figure as a ratio to its rival in the same run.

1. A search step (gates, cost and budget loss included) over a plain training step.
2. Fine-tuning the sliced network over fine-tuning it masked, at a quarter of the MACs.
3. Images per second of a real epoch (shuffling, crops, mirrors, normalisation from images in
   memory) over those of the same steps on one ready batch.

    python benchmarks/training_speed.py
    python benchmarks/training_speed.py --device cuda --network repvgg_a0 --image-size 224
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from in_turns import clock_of, quartiles_of_ratio, time_in_turns
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from pas_trainer import (
    OptimizerConfig,
    annealed_limits,
    attach_gates,
    budget_loss,
    slice_channels,
)
from pas_trainer.budget_loss import project_onto_budget
from pas_trainer.data import ClassificationData
from pas_trainer.data.batches import MemorySplit
from pas_trainer.gates import GatedNetwork
from pas_trainer.loop import Trainer
from pas_trainer.optim import build_optimizer, cosine_factor
from pas_trainer.tasks import Classification
from search_space import Budget, WidthRules, build_supernet, trace_channels

RESULTS = Path(__file__).parent / "results" / "training_speed.json"
LIMIT = 0.25
GOALS = {"search step": 1.02, "sliced fine-tuning": 0.4, "data path": 0.95}


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="repvgg_small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--divisor", type=int, default=1, help="of the sliced widths")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    torch.manual_seed(0)
    bench = Bench(options, device)
    steps = {
        "plain": bench.step(bench.supernet),
        "search step": bench.step(bench.gated()),
        "masked fine-tuning": bench.step(bench.gated(closed=True), searching=False),
        "sliced fine-tuning": bench.step(slice_channels(bench.gated(closed=True))),
    }
    seconds = time_in_turns(steps, options.rounds, clock_of(device, options.threads))
    epochs = time_in_turns(
        bench.epochs(), max(5, options.rounds // 5), clock_of(device, options.threads)
    )
    ratios = {
        "search step": quartiles_of_ratio(seconds["search step"], seconds["plain"]),
        "sliced fine-tuning": quartiles_of_ratio(
            seconds["sliced fine-tuning"], seconds["masked fine-tuning"]
        ),
        "data path": quartiles_of_ratio(epochs["one batch"], epochs["real epoch"]),
    }
    Console().print(_table(options, ratios))
    document = {"torch": torch.__version__, **vars(options), "ratios": ratios}
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(document, indent=1, default=str) + "\n")


class Bench:
    """One network with images, and what can be timed on them."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        self.device, self.batch_size = device, options.batch_size
        image_size: int = options.image_size
        self.rules = WidthRules(divisor=options.divisor)
        self.supernet = build_supernet(options.network, 10)
        self.graph = trace_channels(self.supernet, torch.empty(1, 3, image_size, image_size))
        self.full = {"macs": float(self.graph.count_macs())}
        self.steps = 8 if device.type == "cpu" else 64
        num_images = self.steps * self.batch_size
        images = torch.randint(0, 256, (num_images, 3, image_size, image_size), dtype=torch.uint8)
        labels = torch.randint(0, 10, (num_images,))
        split = MemorySplit(images, labels, padding=image_size // 8, mirror=True).to(device)
        self.data = ClassificationData(
            split, split, split, tuple("0123456789"), 3, image_size, (0.5,) * 3, (0.25,) * 3
        )

    def gated(self, *, closed: bool = False) -> GatedNetwork:
        """Return the network with gates: all open, or closed down to the budget."""
        gated = attach_gates(self.supernet, self.graph, self.rules)
        if closed:
            with torch.no_grad():
                for gate in gated.gates.values():
                    gate.scores.uniform_()
            project_onto_budget(gated, Budget(resource="macs", limit=LIMIT), self.rules)
        return gated

    def step(self, network: nn.Module, *, searching: bool = True) -> Callable[[], Any]:
        """Return one training step of the product on a ready batch."""
        trainer = self._trainer(network, searching=searching)
        images, labels = self._ready_batch()
        return lambda: trainer.step(images, labels, 1.0)

    def epochs(self) -> dict[str, Callable[[], Any]]:
        """Return an epoch of the product's trainer, and its steps on one ready batch."""
        step, trainer = self.step(self.supernet), self._trainer(self.supernet)

        def one_batch() -> None:
            for _ in range(self.steps):
                step()

        return {"one batch": one_batch, "real epoch": lambda: trainer.train_epoch(0)}

    def _trainer(self, network: nn.Module, *, searching: bool = False) -> Trainer:
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        searched = network if searching and isinstance(network, GatedNetwork) else None
        trainer = Trainer(
            model=network.train(),
            optimizer=build_optimizer(network, OptimizerConfig(), 0.01),
            task=Classification(),
            data=self.data,
            recipe=OptimizerConfig(batch_size=self.batch_size),
            phase="pretrain",
            num_epochs=10**6,
            lr_factor=cosine_factor,
            seed=0,
            device=self.device,
            extra_loss=searched and (lambda progress: self._budget_loss(searched, progress)),
        )
        trainer.prepare()
        return trainer

    def _ready_batch(self) -> tuple[Tensor, Tensor]:
        size = self.data.image_size
        images = torch.randn(self.batch_size, 3, size, size, device=self.device)
        labels = torch.randint(0, 10, (self.batch_size,), device=self.device)
        return images.contiguous(memory_format=torch.channels_last), labels

    def _budget_loss(self, gated: GatedNetwork, progress: Tensor) -> Tensor:
        limits = annealed_limits(progress, {"macs": LIMIT * self.full["macs"]}, self.full, 0.7)
        return budget_loss({"macs": gated.cost("macs")}, limits, self.full, "macs")


def _table(options: argparse.Namespace, ratios: dict[str, Any]) -> Table:
    title = (
        f"{options.network}, {options.image_size} pixels, batch {options.batch_size}, "
        f"{options.device}, {options.threads} thread(s), divisor {options.divisor}"
    )
    table = Table(title=title, title_justify="left", box=None)
    for column in ("what", "over", "ratio", "quartiles", "goal"):
        table.add_column(column)
    rivals = {
        "search step": "plain training step",
        "sliced fine-tuning": "masked fine-tuning",
        "data path": "images/s on one ready batch",
    }
    for what, (low, middle, high) in ratios.items():
        sign = "at least" if what == "data path" else "at most"
        row = (what, rivals[what], f"{middle:.3f}", f"{low:.3f} to {high:.3f}")
        table.add_row(*row, f"{sign} {GOALS[what]}")
    return table


if __name__ == "__main__":
    main()
