"""One whole trial: search, freeze, slice, fine-tune, reparameterize, measure.

The method of *Pruning-as-Search* (Li et al., IJCAI 2022): gates and weights of a trained supernet
are trained together under ``task loss + strength * budget loss``; then the gates are frozen.
Here the limit comes down gradually, the final gates meet the budget exactly, and what is
fine-tuned is the sliced network, not the masked one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pas_trainer.budget_loss import annealed_limits, budget_loss, project_onto_budget
from pas_trainer.checkpoint import Checkpoint
from pas_trainer.config import TrialConfig
from pas_trainer.gates import GatedNetwork, attach_gates
from pas_trainer.keys import state_key
from pas_trainer.loop import Report, ignore_report
from pas_trainer.optim import cosine_factor
from pas_trainer.phases import TrialPhases, TrialResult
from pas_trainer.score_mean import ScoreMean
from pas_trainer.slicing import slice_channels
from pas_trainer.workers import num_workers
from search_space import WidthRules, narrow_graph, slice_network


def run_search(
    config: TrialConfig,
    supernet_folder: Path,
    *,
    report: Report = ignore_report,
    checkpoint_folder: Path | None = None,
) -> TrialResult:
    """Run one trial; needs neither Ray nor MLflow.

    Args:
        config: what the trial depends on.
        supernet_folder: where :func:`pas_trainer.train_supernet` left the supernet.
        report: called after every epoch.
        checkpoint_folder: keeps one checkpoint there; a killed trial that is started again with
            the same folder goes on after its last epoch and, on a CPU with the same number of
            threads, ends with bit-identical weights.

    Raises:
        DataError: the images cannot be used.
        DivergenceError: the loss became infinite or NaN.
        ValueError: no network of the search space meets the budget, or the latency table cannot
            be used.
    """
    checkpoint = Checkpoint(checkpoint_folder, state_key(config))
    trial = SearchTrial(config, supernet_folder, report, checkpoint)
    state = checkpoint.load()
    if state is None:
        trial.take_preview("pretrain", trial.supernet)
    return trial.run(trial.supernet_start(), state)


@dataclass(frozen=True, slots=True)
class Start:
    """Where a search starts.

    Attributes:
        network: the supernet, or what an earlier search made of it, with its training branches.
        kept: the supernet's channels that are in it, by group.
        spent: MACs that its training took, see :mod:`pas_trainer.compute`; ``None`` if unknown.
    """

    network: nn.Module
    kept: Mapping[str, Sequence[int]]
    spent: int | None


class SearchTrial(TrialPhases):
    """Search, then fine-tuning."""

    def supernet_start(self) -> Start:
        """Start from the supernet."""
        every = {group.name: list(range(group.size)) for group in self.graph.groups}
        return Start(self.supernet, every, self.pretrain_macs)

    def sliced_start(self, kept: Mapping[str, Sequence[int]], spent: int | None) -> Start:
        """Start from a slice of the supernet, whose weights a checkpoint is to replace."""
        return Start(slice_network(self.supernet, self.graph, kept), kept, spent)

    def run(self, start: Start, state: dict[str, Any] | None, **keep: Any) -> TrialResult:
        """Search and fine-tune, from ``state`` if given; ``keep`` goes into checkpoints."""
        graph = narrow_graph(self.graph, start.network, start.kept)
        rules = self.config.width_rules.for_narrower(self.graph.groups, graph.groups)
        gated = attach_gates(start.network, graph, rules)
        if state is None or state["phase"] == "search":
            self.search(gated, rules, state, keep)
            state = None
        else:
            for name, channels in state["open_channels"].items():
                mask = torch.zeros(gated.gates[name].scores.shape, dtype=torch.bool)
                mask[channels] = True
                gated.gates[name].set_open(mask)
        compact = self._finetune(gated, state, keep)
        chosen = gated.open_channels()
        kept = {name: [start.kept[name][i] for i in units] for name, units in chosen.items()}
        compute = dataclasses.replace(self.compute, full_macs=graph.count_macs())
        own = compute.trial(self._macs(chosen))
        return self.measure(kept, compact, None if start.spent is None else start.spent + own)

    def search(
        self,
        gated: GatedNetwork,
        rules: WidthRules,
        state: dict[str, Any] | None = None,
        keep: Mapping[str, Any] | None = None,
    ) -> None:
        """Train gates and weights together, average, then move the gates onto the budget."""
        config = self.config
        budget = config.budget.absolute_in(self.graph)
        limits = budget.limits(self.graph)
        full = {resource: gated.graph.count(resource) for resource in limits}

        mean = ScoreMean(gated, 1 - config.search.average, self.device)
        if state is not None:
            mean.load_state_dict(state["score_mean"])

        def weighted_budget_loss(progress: Tensor) -> Tensor:
            mean.add(progress)
            costs = {resource: gated.cost(resource) for resource in limits}
            now = annealed_limits(progress, limits, full, config.search.anneal)
            return config.strength * budget_loss(costs, now, full, budget.resource)

        self._train_phase(
            "search",
            gated,
            config.search.epochs,
            config.search.recipe(config.optimizer, len(self.data.train), num_workers()),
            _constant_after_warmup,
            macs=lambda: float(gated.cost("macs").detach()),
            widths=lambda: {name: len(units) for name, units in gated.open_channels().items()},
            state=state,
            extra_loss=weighted_budget_loss,
            keep={**(keep or {}), "score_mean": mean.state_dict()},
        )
        if config.search.average:
            mean.settle()
        share = config.search.share_toward_uniform(in_front=False)
        project_onto_budget(gated, budget, rules, share)

    def _finetune(
        self, gated: GatedNetwork, state: dict[str, Any] | None, keep: Mapping[str, Any]
    ) -> nn.Module:
        """Slice, recalibrate, and train what is left."""
        config = self.config
        compact = slice_channels(gated)
        macs = self._macs(gated.open_channels())
        if state is None:
            self.recalibrate(compact)
        self._train_phase(
            "finetune",
            compact,
            config.finetune.epochs,
            config.optimizer,
            cosine_factor,
            macs=lambda: float(macs),
            state=state,
            keep={**keep, "open_channels": gated.open_channels()},
        )
        return compact

    def _macs(self, open_channels: Mapping[str, Sequence[int]]) -> int:
        return self.graph.count_macs({n: len(c) for n, c in open_channels.items()})


def _constant_after_warmup(step: int, _num_steps: int, warmup_steps: float) -> float:
    return min(1.0, (step + 1) / (warmup_steps + 1))
