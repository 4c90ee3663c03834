"""Everything one trial depends on, as one frozen tree."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from pas_trainer.data import DataConfig
from pas_trainer.keys import ADDED
from pas_trainer.optim import OptimizerConfig
from pas_trainer.tasks import TaskConfig
from search_space import Budget, SupernetConfig, WidthRules


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """Training of the supernet, once per sweep (``pretrain:``)."""

    epochs: int = 30
    """Epochs over the training split; 0 where ``supernet.weights`` are taken as they are."""

    def __post_init__(self) -> None:
        """Check the range."""
        if self.epochs < 0:
            raise ValueError(f"epochs is {self.epochs}; it must be at least 0")


def check_pretraining(supernet: SupernetConfig, pretrain: PretrainConfig) -> None:
    """Check that a search does not start from random weights.

    Raises:
        ValueError: no weights and no epochs.
    """
    if pretrain.epochs == 0 and supernet.weights is None:
        raise ValueError(
            "pretrain.epochs is 0, but supernet.weights are not given; "
            "set pretrain.epochs to at least 1 or give weights"
        )


ENOUGH_STEPS = 1000
"""Steps of a search, see ``search.batch_size``."""
SMALLEST_BATCH = 32
"""Images, below which no batch is halved."""
HALFWAY = 0.5
"""See ``search.toward_uniform``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """The search proper: gates and weights trained together (``search:``)."""

    epochs: int = 5
    """Epochs over the training split, at least 1."""
    batch_size: int | None = field(default=None, metadata=ADDED)
    """Images per step; the weights' learning rate scales with it. ``None``: the recipe's, halved
    until the search has :data:`ENOUGH_STEPS` steps, but not below :data:`SMALLEST_BATCH`: gates
    learn by steps, and the same images in more of them cost no more."""
    anneal: float = 0.7
    """Share of the search over which the limit comes down from the supernet's cost, in [0, 1]."""
    learning_rate_scale: float = 0.5
    """The weights' constant learning rate, as a share of ``learning_rate``."""
    average: float = field(default=0.3, metadata=ADDED)
    """Share of the search, at its end, over which scores are averaged to decide which gates end
    open, in [0, 1]; at 0 the last scores decide."""
    toward_uniform: float | None = field(default=None, metadata=ADDED)
    """How far the widths that were found are moved toward those of uniform narrowing, in [0, 1].
    ``None``: :data:`HALFWAY`, but 0 in an annealed front, see :meth:`share_toward_uniform`."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}; it must be at least 1")
        if self.batch_size is not None and self.batch_size < 2:
            raise ValueError(f"batch_size is {self.batch_size}; batch-norm needs at least 2")
        if not 0 <= self.anneal <= 1:
            raise ValueError(f"anneal is {self.anneal}; it must be in [0, 1]")
        if not 0 < self.learning_rate_scale <= 1:
            value = self.learning_rate_scale
            raise ValueError(f"learning_rate_scale is {value}; it must be in (0, 1]")
        for name in ("average", "toward_uniform"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it must be in [0, 1]")

    def share_toward_uniform(self, *, in_front: bool) -> float:
        """Return how far widths are moved toward uniform ones.

        A network that is trained for long afterwards forgets much of what it took over; then
        balanced widths are better than those that hurt least. Those of a front are trained
        for a short time each.
        """
        if self.toward_uniform is not None:
            return self.toward_uniform
        return 0.0 if in_front else HALFWAY

    def recipe(self, recipe: OptimizerConfig, num_images: int, num_workers: int) -> OptimizerConfig:
        """Return the recipe of the search, whose learning rate is that of the weights.

        Args:
            recipe: of the other phases.
            num_images: in the training split.
            num_workers: that share each batch equally.
        """
        size = self.batch_size
        if size is None:
            size = recipe.batch_size
            while (
                size % (2 * num_workers) == 0
                and size >= 2 * SMALLEST_BATCH
                and num_images // size * self.epochs < ENOUGH_STEPS
            ):
                size //= 2
        share = size / recipe.batch_size
        return replace(
            recipe,
            batch_size=size,
            micro_batches=max(1, recipe.micro_batches * size // recipe.batch_size),
            learning_rate=recipe.learning_rate * share * self.learning_rate_scale,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    """Training of the sliced network (``finetune:``)."""

    epochs: int = 30
    """Epochs over the training split, at least 1."""
    recalibration_batches: int = 50
    """Training batches that batch-norm statistics are averaged over after slicing."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}; it must be at least 1")
        if self.recalibration_batches < 1:
            value = self.recalibration_batches
            raise ValueError(f"recalibration_batches is {value}; it must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class SupernetTraining:
    """What a trained supernet depends on: its cache key is the hash of this and the images."""

    data: DataConfig
    supernet: SupernetConfig
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    seed: int = 0
    device: str = "auto"
    task: TaskConfig = field(default_factory=TaskConfig, metadata=ADDED)

    def __post_init__(self) -> None:
        """Check that there are weights or epochs."""
        check_pretraining(self.supernet, self.pretrain)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialConfig:
    """What one trial depends on.

    Attributes:
        data: images and splits.
        supernet: where the search starts.
        budget: limit that the compact network meets.
        strength: weight of the budget loss, at least 0.
        width_rules: floor and divisor of every group.
        optimizer: recipe.
        search, finetune: the two phases.
        latency_table: file of the measured table that a limit on ``latency_ms`` goes by.
        seed: of this trial; the same trial gives the same result on the same kind of machine.
        device: ``auto``, ``cpu`` or ``cuda``.
        task: what the network is for.
    """

    data: DataConfig
    supernet: SupernetConfig
    budget: Budget
    strength: float
    width_rules: WidthRules = field(default_factory=WidthRules)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    latency_table: str | None = None
    seed: int = 0
    device: str = "auto"
    task: TaskConfig = field(default_factory=TaskConfig, metadata=ADDED)

    def __post_init__(self) -> None:
        """Check the strength, and that a limit on latency has its table."""
        if not 0 <= self.strength < float("inf"):
            raise ValueError(f"strength is {self.strength}; it must be a number of at least 0")
        if "latency_ms" in self.budget.written() and self.latency_table is None:
            raise ValueError(
                "budget limits latency_ms, but latency_table is not given; "
                "write one with measure_latency_table"
            )


ControlKind = Literal["supernet", "uniform"]
"""What trials are compared with: the supernet trained on, a uniformly narrowed network."""

CONTROLS: tuple[ControlKind, ...] = get_args(ControlKind)


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlConfig:
    """What one control network depends on.

    Attributes:
        kind: which control.
        trial: recipe, images, budget and seed; the control gets the compute of such a trial. Its
            strength plays no part.
    """

    kind: ControlKind
    trial: TrialConfig

    def __post_init__(self) -> None:
        """Check the kind."""
        if self.kind not in CONTROLS:
            raise ValueError(f"kind is {self.kind!r}; known: {', '.join(CONTROLS)}")
