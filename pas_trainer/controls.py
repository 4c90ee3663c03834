"""Control networks: what a trial must beat, trained by the same recipe with the same compute.

``supernet``
    The shared supernet trained on, nothing pruned, for as long as a trial searches and fine-tunes.
``uniform``
    Every channel group narrowed by the same share, exactly onto the budget, and trained from
    scratch on the compute of a whole trial, pre-training included. Where the supernet came with
    given weights, which cost nothing here, training from scratch would be no match; then the
    supernet is sliced to the same widths, in each group to the channels whose weights have the
    largest L1 norm, and trained for as long as a trial searches and fine-tunes.

All of them take whole epochs, rounded down: never more compute than a trial.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from pas_trainer.channel_norms import channel_norms
from pas_trainer.checkpoint import Checkpoint
from pas_trainer.compute import epochs_within, training_macs
from pas_trainer.config import ControlConfig, ControlKind
from pas_trainer.keys import state_key
from pas_trainer.loop import Report, derive_seed, ignore_report
from pas_trainer.optim import cosine_factor
from pas_trainer.phases import TrialPhases, TrialResult
from pas_trainer.supernet import new_supernet
from search_space import Budget, ChannelGraph, slice_network, uniform_widths


def run_control(
    config: ControlConfig,
    supernet_folder: Path,
    *,
    report: Report = ignore_report,
    checkpoint_folder: Path | None = None,
) -> TrialResult:
    """Train one control and measure it as a trial; needs neither Ray nor MLflow.

    Arguments as :func:`pas_trainer.run_search`, resumption too.

    Raises:
        DataError: the images cannot be used.
        DivergenceError: the loss became infinite or NaN.
        ValueError: no network of the search space meets the budget, the latency table cannot be
            used, or the supernet's folder has no measures.
    """
    checkpoint = Checkpoint(checkpoint_folder, state_key(config))
    control = _Control(config.trial, supernet_folder, report, checkpoint)
    if control.pretrain_macs is None:
        raise ValueError(f"{supernet_folder} does not hold the measures of a trained supernet")
    widths = uniform_widths(control.graph, config.trial.budget, config.trial.width_rules)
    trial_macs = macs_at_budget(control.graph, config.trial.budget, widths)
    if config.kind == "supernet":
        widths = control.graph.full_widths()
    return control.train(config.kind, widths, trial_macs, control.pretrain_macs)


def macs_at_budget(graph: ChannelGraph, budget: Budget, uniform: dict[str, int]) -> int:
    """Return the MACs of a network that meets the budget exactly.

    That is the limit where it is on MACs alone, otherwise those of the uniform network.
    """
    limits = budget.limits(graph)
    return round(limits["macs"]) if list(limits) == ["macs"] else graph.count_macs(uniform)


class _Control(TrialPhases):
    """One phase: a network of given widths, from scratch or from the supernet."""

    def train(
        self, kind: ControlKind, widths: dict[str, int], trial_macs: int, pretrain_macs: int
    ) -> TrialResult:
        """Train a network of these widths on the compute of a trial at ``trial_macs``."""
        from_scratch = kind == "uniform" and self.config.supernet.weights is None
        is_sliced = kind == "uniform" and not from_scratch
        open_channels, network = self._start(widths, from_scratch=from_scratch)
        macs, images = self.graph.count_macs(widths), self.compute.epoch_images
        before = 0 if from_scratch else pretrain_macs
        before += self.compute.recalibration(macs) if is_sliced else 0
        given = pretrain_macs + self.compute.trial(trial_macs)
        num_epochs = epochs_within(given - before, macs, images)
        state = self.checkpoint.load()
        if is_sliced and state is None:
            self.recalibrate(network)
        self._train_phase(
            "control",
            network,
            num_epochs,
            self.config.optimizer,
            cosine_factor,
            macs=lambda: float(macs),
            state=state,
        )
        spent = before + training_macs(macs, images, num_epochs)
        return self.measure(open_channels, network, spent)

    def _start(
        self, widths: dict[str, int], *, from_scratch: bool
    ) -> tuple[dict[str, list[int]], nn.Module]:
        """Return the channels that stay and the network to train, on the CPU."""
        if from_scratch:
            torch.manual_seed(derive_seed(self.config.seed, "control"))
            network = new_supernet(self.config.supernet, self.task, self.data)
            self.companion = self.new_companion(None)
            kept = {name: list(range(width)) for name, width in widths.items()}
        else:
            network = self.supernet
            norms = channel_norms(network, self.graph)
            order = {n: v.argsort(descending=True, stable=True).tolist() for n, v in norms.items()}
            kept = {name: sorted(order[name][:width]) for name, width in widths.items()}
        return kept, slice_network(network, self.graph, kept)
