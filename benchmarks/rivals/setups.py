"""What is trained on what, for how long: set-ups for a CPU and for a GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pas_trainer import (
    DataConfig,
    FinetuneConfig,
    OptimizerConfig,
    PretrainConfig,
    SearchConfig,
    SupernetTraining,
    TrialConfig,
    content_key,
    train_supernet,
)
from search_space import Budget, SupernetConfig

BUDGETS = (0.5, 0.25, 0.125)
STRENGTH = 10.0
CACHE = Path(".pas") / "benchmarks"


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """A size of the benchmark.

    Attributes:
        image_size: CIFAR-10's 32 pixels, or fewer.
        train_images: ``None`` for all; a tenth of them is held out to choose by.
        supernets: name and options by label.
        pretrain_epochs: of the supernet that the methods share.
        total_epochs: what every network may take in all, in epochs of the supernet.
        search: how PaS searches; as long as that is what network slimming trains sparsely for.
        optimizer: recipe of every phase of every method.
        seeds: each with a supernet of its own.
    """

    image_size: int
    train_images: int | None
    supernets: Mapping[str, SupernetConfig]
    pretrain_epochs: int
    total_epochs: int
    search: SearchConfig
    optimizer: OptimizerConfig
    seeds: tuple[int, ...]

    def data(self, root: Path) -> DataConfig:
        """The images."""
        return DataConfig(
            name="imagefolder",
            root=str(root),
            image_size=self.image_size,
            train_images=self.train_images,
        )

    def trained_supernet(self, root: Path, supernet: str, seed: int) -> Path:
        """Train the supernet that every method starts from, or find it; return its folder."""
        training = SupernetTraining(
            data=self.data(root),
            supernet=self.supernets[supernet],
            optimizer=self.optimizer,
            pretrain=PretrainConfig(epochs=self.pretrain_epochs),
            seed=seed,
        )
        folder = CACHE / content_key(training)
        train_supernet(training, folder)
        return folder

    def trial(self, root: Path, supernet: str, budget: float, seed: int) -> TrialConfig:
        """A PaS trial; :func:`rivals.methods.train_network` sets how long it fine-tunes."""
        return TrialConfig(
            data=self.data(root),
            supernet=self.supernets[supernet],
            budget=Budget(resource="macs", limit=budget),
            strength=STRENGTH,
            optimizer=self.optimizer,
            search=self.search,
            finetune=FinetuneConfig(epochs=1),
            seed=seed,
        )


def _import(function: str, **options: float) -> SupernetConfig:
    return SupernetConfig(name=f"import:rivals.networks:{function}", options=options)


_LONG = Setup(
    image_size=16,
    train_images=None,
    supernets={
        "repvgg": _import("narrow_repvgg"),
        "resnet": _import("small_resnet", width=0.75),
    },
    pretrain_epochs=3,
    total_epochs=16,
    search=SearchConfig(epochs=1),
    optimizer=OptimizerConfig(learning_rate=0.1, label_smoothing=0.0),
    seeds=(0, 1),
)
"""About an hour and a half per seed and budget on two cores; in larger batches, five minutes on an
H100."""

SETUPS: Mapping[str, Setup] = {
    "cpu": Setup(
        image_size=16,
        train_images=20_000,
        supernets={"repvgg": _import("small_repvgg"), "resnet": _import("small_resnet")},
        pretrain_epochs=4,
        total_epochs=16,
        search=SearchConfig(epochs=2),
        optimizer=OptimizerConfig(learning_rate=0.1, label_smoothing=0.0),
        seeds=(0, 1),
    ),
    "long": _LONG,
    "gpu": dataclasses.replace(
        _LONG,
        optimizer=OptimizerConfig(learning_rate=0.2, label_smoothing=0.0, batch_size=512),
    ),
    "full": Setup(  # days of one GPU
        image_size=32,
        train_images=None,
        supernets={
            "repvgg": SupernetConfig(name="repvgg_small"),
            "resnet": SupernetConfig(name="torchvision:resnet18", options={"stem": "cifar"}),
        },
        pretrain_epochs=60,
        total_epochs=200,
        search=SearchConfig(epochs=15),
        optimizer=OptimizerConfig(learning_rate=0.1),
        seeds=(0, 1, 2),
    ),
}
