"""One network per method, all by the same recipe and within the same training compute.

Compute is counted as in :mod:`pas_trainer.compute`, pre-training and scoring included; whatever a
method has left after those goes into training the network it found, in whole epochs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pas_trainer import (
    ControlConfig,
    ControlKind,
    FinetuneConfig,
    TrialConfig,
    TrialResult,
    attach_gates,
    derive_seed,
    run_control,
    run_search,
    slice_channels,
)
from pas_trainer.channel_norms import channel_norms
from pas_trainer.checkpoint import Checkpoint
from pas_trainer.compute import epochs_within, training_macs
from pas_trainer.loop import ignore_report
from pas_trainer.optim import cosine_factor
from pas_trainer.phases import TrialPhases
from pas_trainer.search import SearchTrial
from pas_trainer.strided_convolutions import subsampled_reads
from rivals.criteria import best_channels, globally, mean_scores, random_widths
from rivals.fastnas import fastnas_widths
from search_space import fit_widths, narrow_graph, slice_network, uniform_widths

SCORING_BATCHES = 16
FASTNAS_BATCHES = 4
SPARSITY = 1e-4
"""Weight of the L1 norm of batch-norm scales (Liu et al., *Network Slimming*, ICCV 2017)."""
PAPER_STRENGTH = 14.0
"""The paper's 0.1 for RepVGG-B1, whose cost was counted in units of 10^9 MACs: 0.1 x 11.8^2."""

Channels = dict[str, list[int]]


class Rival(TrialPhases):
    """Widths by some rule, the supernet sliced to them and trained on.

    Attributes:
        total_macs: training compute that may be spent in all.
        spent: what is spent so far, the supernet's pre-training included.
        supernet, graph: what is sliced.
        uniform: widths of uniform narrowing, of the whole supernet.
    """

    def __init__(self, config: TrialConfig, supernet_folder: Path) -> None:
        super().__init__(config, supernet_folder, ignore_report, Checkpoint(None, ""))
        assert self.pretrain_macs is not None
        self.supernet_folder = supernet_folder
        self.total_macs = self.spent = self.pretrain_macs
        self.uniform = uniform_widths(self.graph, config.budget, config.width_rules)
        self._numbers: Mapping[str, Sequence[int]] = {
            group.name: range(group.size) for group in self.graph.groups
        }

    def go_on_from(self, looser: TrialResult) -> None:
        """Slice what was trained at a looser budget instead of the supernet."""
        config, network = self.config, looser.training_network
        self._numbers = looser.architecture.open_channels
        graph = narrow_graph(self.graph, network, self._numbers)
        self.config = dataclasses.replace(
            config,
            budget=config.budget.absolute_in(self.graph),
            width_rules=config.width_rules.for_narrower(self.graph.groups, graph.groups),
        )
        self.compute = dataclasses.replace(self.compute, full_macs=graph.count_macs())
        self.supernet, self.graph = network, graph
        assert looser.training_macs is not None
        self.spent = looser.training_macs

    def sliced(self, kept: Channels) -> TrialResult:
        """Slice, recalibrate, and train with what compute is left."""
        network = slice_network(self.supernet.cpu(), self.graph, kept)
        macs = self.graph.count_macs({name: len(channels) for name, channels in kept.items()})
        self.recalibrate(network)
        self.spent += self.compute.recalibration(macs)
        self.finetune(network, macs)
        numbers = self._numbers
        kept = {name: [numbers[name][i] for i in units] for name, units in kept.items()}
        return self.measure(kept, network, self.spent)

    def finetune(self, network: nn.Module, macs: int) -> None:
        """Train a network that costs ``macs`` to run with what compute is left."""
        num_epochs = epochs_within(self.total_macs - self.spent, macs, self.compute.epoch_images)
        self._train_phase(
            "finetune",
            network,
            num_epochs,
            self.config.optimizer,
            cosine_factor,
            macs=lambda: float(macs),
            state=None,
        )
        self.spent += training_macs(macs, self.compute.epoch_images, num_epochs)

    def train_sparsely(self) -> None:
        """Train the supernet with a penalty on its batch-norm scales, as long as PaS searches."""
        norms = [m.weight for m in self.supernet.modules() if isinstance(m, nn.BatchNorm2d)]

        def penalty(_progress: Tensor) -> Tensor:
            return SPARSITY * torch.stack([weight.abs().sum() for weight in norms]).sum()

        search, optimizer = self.config.search, self.config.optimizer
        learning_rate = optimizer.learning_rate * search.learning_rate_scale
        self._train_phase(
            "search",
            self.supernet,
            search.epochs,
            dataclasses.replace(optimizer, learning_rate=learning_rate),
            lambda step, _steps, warmup: min(1.0, (step + 1) / (warmup + 1)),
            macs=lambda: float(self.full_macs),
            state=None,
            extra_loss=penalty,
        )
        self.spent += self.compute.search()

    def losses(self) -> Iterator[Tensor]:
        """Yield the supernet's loss on some training batches, which counts as training on them."""
        prepare = self.task.preparer(self.data, self.device)
        size = self.config.optimizer.batch_size
        batches = self.data.train.train_batches(size, derive_seed(self.config.seed, "scores"))
        self.supernet.eval()
        for _, batch in zip(range(SCORING_BATCHES), batches, strict=False):
            images, labels = prepare(batch)
            self.spent += training_macs(self.full_macs, len(labels), 1)
            with subsampled_reads():
                loss = F.cross_entropy(self.supernet(images), labels)
            yield loss

    def by_criterion(self, criterion: str) -> TrialResult:
        """Global pruning by a criterion of torch-pruning."""
        shape = (1, self.data.channels, self.data.image_size, self.data.image_size)
        image = torch.zeros(shape, device=self.device)
        supernet = self.supernet.to(self.device)
        losses = self.losses() if criterion == "taylor" else iter(())
        scores = mean_scores(criterion, supernet, self.graph, losses, image)
        kept = globally(self.graph, self.config.budget, self.config.width_rules, scores)
        return self.sliced(kept)

    def by_widths(self, widths: dict[str, int]) -> TrialResult:
        """Given widths; the channels with the largest L1 norm stay."""
        return self.sliced(best_channels(channel_norms(self.supernet, self.graph), widths))


def _fastnas(rival: Rival) -> TrialResult:
    """Scores on training images, one forward pass each; statistics of batch-norm alike."""
    config, prepare = rival.config, rival.task.preparer(rival.data, rival.device)
    seed = derive_seed(config.seed, "scores")
    batches = list(
        itertools.islice(
            map(prepare, rival.data.train.train_batches(config.optimizer.batch_size, seed)),
            FASTNAS_BATCHES,
        )
    )

    @torch.no_grad()
    def score(network: nn.Module) -> float:
        network.eval()
        rival.spent += rival.full_macs * 2 * sum(len(labels) for _, labels in batches)
        right = [(network(images).argmax(1) == labels).float().mean() for images, labels in batches]
        return float(torch.stack(right).mean())

    rules = config.width_rules
    supernet = rival.supernet.to(rival.device)
    widths = fastnas_widths(supernet, rival.graph, config.budget, rules, batches, score)
    return rival.by_widths(widths)


def _uniform_slices(rival: Rival) -> TrialResult:
    """In a chain, as near to uniform as what is left of the supernet allows."""
    config, left = rival.config, rival.graph.full_widths()
    start = {name: min(width, left[name]) for name, width in rival.uniform.items()}
    return rival.by_widths(fit_widths(rival.graph, config.budget, config.width_rules, start, {}))


def _random_widths(rival: Rival) -> TrialResult:
    config = rival.config
    seed = derive_seed(config.seed, "widths", str(config.budget.limit))
    return rival.by_widths(random_widths(rival.graph, config.budget, config.width_rules, seed))


def _bn_scale(rival: Rival) -> TrialResult:
    rival.train_sparsely()
    return rival.by_criterion("bn_scale")


def _paper(rival: Rival) -> TrialResult:
    """The recipe as released: constant two-sided loss, then training under frozen gates.

    With our landing on the budget, without which it would cost more or less than the others.
    """
    batch_size = rival.config.optimizer.batch_size
    search = dataclasses.replace(
        rival.config.search, anneal=0.0, average=0.0, batch_size=batch_size
    )
    config = dataclasses.replace(rival.config, strength=PAPER_STRENGTH, search=search)
    trial = SearchTrial(config, rival.supernet_folder, ignore_report, Checkpoint(None, ""))
    gated = attach_gates(trial.supernet, trial.graph, config.width_rules)
    trial.search(gated, config.width_rules)
    rival.spent += rival.compute.search()
    for gate in gated.gates.values():
        gate.scores.requires_grad_(False)
    rival.finetune(gated, rival.full_macs)
    return rival.measure(gated.open_channels(), slice_channels(gated), rival.spent)


def _as_found(*, large: bool = True, **options: float) -> Callable[[Rival], TrialResult]:
    """Widths as the search found them, in the recipe's batches where these shall be large."""

    def method(rival: Rival) -> TrialResult:
        batch_size = rival.config.optimizer.batch_size if large else None
        search = dataclasses.replace(
            rival.config.search,
            toward_uniform=0.0,
            batch_size=batch_size,
            **options,  # type: ignore[arg-type]
        )
        return run_search(dataclasses.replace(rival.config, search=search), rival.supernet_folder)

    return method


def _control(kind: ControlKind) -> Callable[[Rival], TrialResult]:
    return lambda rival: run_control(
        ControlConfig(kind=kind, trial=rival.config), rival.supernet_folder
    )


METHODS: Mapping[str, Callable[[Rival], TrialResult]] = {
    "supernet": _control("supernet"),
    "PaS": lambda rival: run_search(rival.config, rival.supernet_folder),
    "PaS, widths as found": _as_found(large=False),
    "PaS, large batches": _as_found(),
    "PaS, last scores": _as_found(average=0.0),
    "uniform from scratch": _control("uniform"),
    "uniform slices": _uniform_slices,
    "random widths": _random_widths,
    "L1 global": lambda rival: rival.by_criterion("l1"),
    "network slimming": _bn_scale,
    "Taylor": lambda rival: rival.by_criterion("taylor"),
    "FastNAS": _fastnas,
    "PaS as released": _paper,
}


def train_network(
    method: str, config: TrialConfig, supernet_folder: Path, total_epochs: int
) -> TrialResult:
    """Train the network that a method finds on the compute of ``total_epochs`` of the supernet."""
    rival = Rival(config, supernet_folder)
    images = rival.compute.epoch_images
    rival.total_macs = training_macs(rival.full_macs, images, total_epochs)
    at_budget = round(config.budget.absolute(rival.graph))
    left = rival.total_macs - rival.spent - rival.compute.search()
    left -= rival.compute.recalibration(at_budget)
    epochs = epochs_within(left, at_budget, images)
    rival.config = dataclasses.replace(config, finetune=FinetuneConfig(epochs=epochs))
    return METHODS[method](rival)
