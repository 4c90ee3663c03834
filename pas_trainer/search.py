"""One whole trial: search, freeze, slice, fine-tune, reparameterize, measure.

The method of *Pruning-as-Search* (Li et al., IJCAI 2022): gates and weights of a trained supernet
are trained together under ``task loss + strength * budget loss``; then the gates are frozen.
Here the limit comes down gradually, the final gates meet the budget exactly, and what is
fine-tuned is the sliced network, not the masked one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pas_trainer.budget_loss import annealed_limits, budget_loss, project_onto_budget
from pas_trainer.checkpoint import Checkpoint
from pas_trainer.config import TrialConfig, content_key
from pas_trainer.data import ClassificationData, load_data
from pas_trainer.fuse import reparameterize
from pas_trainer.gates import GatedNetwork, attach_gates
from pas_trainer.loop import (
    EpochReport,
    Phase,
    Report,
    Trainer,
    derive_seed,
    evaluate,
    ignore_report,
    pick_device,
    recalibrate_norms,
)
from pas_trainer.optim import build_optimizer, cosine_factor
from pas_trainer.slicing import slice_channels
from pas_trainer.supernet import load_supernet, trace_supernet
from search_space import Architecture, ChannelGraph, LatencyTable, graph_with_latency


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResult:
    """What a finished trial found.

    Attributes:
        architecture: all it takes to rebuild the network.
        network: deploy form, CPU, eval mode.
        training_network: the same function with its training branches, CPU, eval mode.
        widths: open channels by group.
        macs, num_params, activation_bytes: of the deploy form, one image.
        macs_ratio: MACs over the supernet's.
        predicted_latency_ms: by the latency table, if there is one.
        accuracy: on the validation split, in [0, 1].
        test_accuracy: on the test split, in [0, 1]; measured once, here.
    """

    architecture: Architecture
    network: nn.Module
    training_network: nn.Module
    widths: Mapping[str, int]
    macs: int
    num_params: int
    activation_bytes: int
    macs_ratio: float
    predicted_latency_ms: float | None
    accuracy: float
    test_accuracy: float


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
    data, device = load_data(config.data), pick_device(config.device)
    supernet = load_supernet(config.supernet, data, supernet_folder)
    shape = (data.channels, data.image_size, data.image_size)
    where = config.supernet
    graph = trace_supernet(supernet, shape, scope=where.scope, pinned=where.pinned)
    if config.latency_table is not None:
        graph = graph_with_latency(graph, read_latency_table(Path(config.latency_table)))
    trial = _Trial(config, data, device, graph, report, checkpoint_folder)
    gated = attach_gates(supernet, graph, config.width_rules)
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
    return trial.measure(gated, compact)


def read_latency_table(path: Path) -> LatencyTable:
    """Read a table that was kept as JSON.

    Raises:
        ValueError: it cannot be read, or is something else; one sentence.
    """
    try:
        return LatencyTable.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"latency table {path} cannot be read: {reason}") from error


class _Trial:
    """The phases of one trial over the same data, device and checkpoint."""

    def __init__(
        self,
        config: TrialConfig,
        data: ClassificationData,
        device: torch.device,
        graph: ChannelGraph,
        report: Report,
        folder: Path | None,
    ) -> None:
        self.config, self.data, self.device, self.graph = config, data, device, graph
        self.report = report
        self.checkpoint = Checkpoint(folder, content_key(config))
        self.full_macs = graph.count_macs()

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
        macs = self.graph.count_macs({n: len(c) for n, c in gated.open_channels().items()})
        if state is None:
            compact.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            recalibrate_norms(
                compact,
                self.data,
                self.device,
                num_batches=config.finetune.recalibration_batches,
                batch_size=config.optimizer.batch_size,
                seed=derive_seed(config.seed, "recalibrate"),
            )
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

    def measure(self, gated: GatedNetwork, compact: nn.Module) -> TrialResult:
        """Reparameterize and measure, the test split for the only time."""
        data = self.data
        plain = reparameterize(compact)
        open_channels = gated.open_channels()
        widths = {name: len(channels) for name, channels in open_channels.items()}
        macs = self.graph.count_macs(widths)
        accuracy = evaluate(plain, data.validation, data, self.device)
        test_accuracy = evaluate(plain, data.test, data, self.device)
        architecture = Architecture(
            supernet=self.config.supernet.name,
            options=dict(self.config.supernet.options),
            scope=list(self.config.supernet.scope),
            pinned=list(self.config.supernet.pinned),
            in_channels=data.channels,
            image_size=data.image_size,
            mean=list(data.mean),
            std=list(data.std),
            classes=list(data.classes),
            open_channels=open_channels,
        )
        return TrialResult(
            architecture=architecture,
            network=plain.cpu().eval(),
            training_network=compact.cpu().eval(),
            widths=widths,
            macs=macs,
            num_params=self.graph.count_params(widths),
            activation_bytes=self.graph.count("activation_bytes", widths),
            macs_ratio=macs / self.full_macs,
            predicted_latency_ms=self._predicted_latency_ms(widths),
            accuracy=accuracy,
            test_accuracy=test_accuracy,
        )

    def _predicted_latency_ms(self, widths: Mapping[str, int]) -> float | None:
        if self.config.latency_table is None:
            return None
        return float(self.graph.count("latency_ms", widths))

    def _train_phase(
        self,
        phase: Phase,
        model: nn.Module,
        num_epochs: int,
        learning_rate: float,
        lr_factor: Callable[[int, int, float], float],
        *,
        macs: Callable[[], float],
        state: dict[str, Any] | None,
        extra_loss: Callable[[float], Tensor] | None = None,
        keep: Mapping[str, Any] | None = None,
    ) -> None:
        """Train ``model`` for a phase, from ``state`` if given; ``keep`` goes into checkpoints."""
        model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = build_optimizer(model, self.config.optimizer, learning_rate)
        start = 0
        if state is not None:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            start = state["epoch"]
        trainer = Trainer(
            model=model,
            optimizer=optimizer,
            data=self.data,
            recipe=self.config.optimizer,
            phase=phase,
            num_epochs=num_epochs,
            lr_factor=lr_factor,
            seed=self.config.seed,
            device=self.device,
            extra_loss=extra_loss,
        )
        for epoch in range(start, num_epochs):
            loss = trainer.train_epoch(epoch)
            accuracy = evaluate(model, self.data.validation, self.data, self.device)
            self.checkpoint.save(
                phase=phase,
                epoch=epoch + 1,
                model=model.state_dict(),
                optimizer=optimizer.state_dict(),
                **(keep or {}),
            )
            self.report(
                EpochReport(
                    phase=phase,
                    epoch=epoch + 1,
                    num_epochs=num_epochs,
                    loss=loss,
                    accuracy=accuracy,
                    macs_ratio=macs() / self.full_macs,
                )
            )


def _constant_after_warmup(step: int, _num_steps: int, warmup_steps: float) -> float:
    return min(1.0, (step + 1) / (warmup_steps + 1))
