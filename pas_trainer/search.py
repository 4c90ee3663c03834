"""One whole trial: search, freeze, slice, fine-tune, reparameterize, measure.

The method of *Pruning-as-Search* (Li et al., IJCAI 2022): gates and weights of a trained supernet
are trained together under ``task loss + strength * budget loss``; then the gates are frozen.
Here the limit comes down gradually, the final gates meet the budget exactly, and what is
fine-tuned is the sliced network, not the masked one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pas_trainer.budget_loss import annealed_limits, budget_loss, project_onto_budget
from pas_trainer.checkpoint import Checkpoint
from pas_trainer.config import TrialConfig, content_key
from pas_trainer.gates import GatedNetwork, attach_gates
from pas_trainer.loop import Report, ignore_report
from pas_trainer.optim import cosine_factor
from pas_trainer.phases import TrialPhases, TrialResult
from pas_trainer.slicing import slice_channels


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
    checkpoint = Checkpoint(checkpoint_folder, content_key(config))
    trial = SearchTrial(config, supernet_folder, report, checkpoint)
    gated = attach_gates(trial.supernet, trial.graph, config.width_rules)
    state = trial.checkpoint.load()
    if state is None or state["phase"] == "search":
        trial.search(gated, state)
        state = None
    else:
        for name, channels in state["open_channels"].items():
            mask = torch.zeros(gated.gates[name].scores.shape, dtype=torch.bool)
            mask[channels] = True
            gated.gates[name].set_open(mask)
    compact = trial.finetune(gated, state)
    return trial.measure(gated.open_channels(), compact, trial.training_macs(gated))


class SearchTrial(TrialPhases):
    """Search, then fine-tuning."""

    def search(self, gated: GatedNetwork, state: dict[str, Any] | None) -> None:
        """Train gates and weights together, then move the gates onto the budget."""
        config, budget = self.config, self.config.budget
        limits = budget.limits(self.graph)
        full = {resource: self.graph.count(resource) for resource in limits}

        def weighted_budget_loss(progress: float) -> Tensor:
            costs = {resource: gated.cost(resource) for resource in limits}
            now = annealed_limits(progress, limits, full, config.search.anneal)
            return config.strength * budget_loss(costs, now, full, budget.resource)

        learning_rate = config.optimizer.learning_rate * config.search.learning_rate_scale
        self._train_phase(
            "search",
            gated,
            config.search.epochs,
            learning_rate,
            _constant_after_warmup,
            macs=lambda: float(gated.cost("macs").detach()),
            state=state,
            extra_loss=weighted_budget_loss,
        )
        project_onto_budget(gated, budget, config.width_rules)

    def finetune(self, gated: GatedNetwork, state: dict[str, Any] | None) -> nn.Module:
        """Slice, recalibrate, and train what is left."""
        config = self.config
        compact = slice_channels(gated)
        macs = self._compact_macs(gated)
        if state is None:
            self.recalibrate(compact)
        self._train_phase(
            "finetune",
            compact,
            config.finetune.epochs,
            config.optimizer.learning_rate,
            cosine_factor,
            macs=lambda: float(macs),
            state=state,
            keep={"open_channels": gated.open_channels()},
        )
        return compact

    def training_macs(self, gated: GatedNetwork) -> int | None:
        """MACs that the trial took in all, with the supernet's pre-training where it is known."""
        own = self.compute.trial(self._compact_macs(gated))
        return None if self.pretrain_macs is None else self.pretrain_macs + own

    def _compact_macs(self, gated: GatedNetwork) -> int:
        return self.graph.count_macs({n: len(c) for n, c in gated.open_channels().items()})


def _constant_after_warmup(step: int, _num_steps: int, warmup_steps: float) -> float:
    return min(1.0, (step + 1) / (warmup_steps + 1))
