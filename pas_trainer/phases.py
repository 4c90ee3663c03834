"""What trials and controls share: their surroundings, a phase of training, and the measuring."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pas_trainer.checkpoint import Checkpoint
from pas_trainer.compute import TrialCompute
from pas_trainer.config import TrialConfig
from pas_trainer.devices import pick_device
from pas_trainer.epochs import Epochs
from pas_trainer.errors import DivergenceError
from pas_trainer.loop import Phase, Report, Trainer, derive_seed, recalibrate_norms
from pas_trainer.optim import OptimizerConfig, build_optimizer
from pas_trainer.phase_clock import PhaseClock
from pas_trainer.supernet import (
    graph_of_trial,
    load_supernet,
    new_companion,
    read_supernet_result,
)
from pas_trainer.tasks import Companion, TaskData, make_task
from search_space import (
    Architecture,
    LatencyTable,
    copy_network,
    graph_with_latency,
    reparameterize,
)


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
        training_macs: what its training took in all, the supernet's included where it started
            from that; see :mod:`pas_trainer.compute`. ``None`` if the supernet's is not known.
        score: the task's metric on the validation split, see :attr:`Task.metric`.
        test_score: on the test split; measured once, here.
        metrics: all figures that the task measures on the validation split, by name.
        test_metrics: the same on the test split.
        previews: pictures (H, W, 3), uint8, of what the network does on some validation images,
            by the phase that they were taken after (``pretrain``: the supernet); none, if the task
            draws none.
        seconds: wall time by phase, all starts of the trial together: getting ready counts as the
            first phase, measuring as the last; what a kill undid does not count.
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
    training_macs: int | None
    score: float
    test_score: float
    metrics: Mapping[str, float]
    test_metrics: Mapping[str, float]
    seconds: Mapping[str, float]
    previews: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)


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


class TrialPhases:
    """The phases of one trial over the same data, device and checkpoint.

    Args:
        config: the trial's.
        supernet_folder: where :func:`pas_trainer.train_supernet` left the supernet.
        report: called after every epoch.
        checkpoint: of this trial.

    Attributes:
        task: what the network is for.
        data: its images.
        supernet: the trained supernet, on the CPU.
        graph: its channel graph, with latencies if the trial has a table.
        full_macs: MACs of the supernet.
        pretrain_macs: what its training took; ``None`` if its folder does not tell.
        compute: what a trial takes beyond that.
        companion: what is trained beside the network, if there is anything; as it was beside the
            supernet.
        clock: how long it takes.

    Raises:
        DataError: the images cannot be used.
        ValueError: the latency table cannot be used.
    """

    def __init__(
        self, config: TrialConfig, supernet_folder: Path, report: Report, checkpoint: Checkpoint
    ) -> None:
        self.clock = PhaseClock()
        self.config, self.report, self.checkpoint = config, report, checkpoint
        self.device = pick_device(config.device)
        self.task = make_task(config.task)
        self.data: TaskData = self.task.load_data(config.data, self.device)
        self.supernet = load_supernet(config.supernet, self.task, self.data, supernet_folder)
        self.companion = self.new_companion(supernet_folder)
        graph = graph_of_trial(config, self.supernet, self.task, self.data)
        if config.latency_table is not None:
            graph = graph_with_latency(graph, read_latency_table(Path(config.latency_table)))
        self.graph = graph
        self.full_macs = graph.count_macs()
        trained = read_supernet_result(supernet_folder)
        self.pretrain_macs = trained.training_macs if trained else None
        self.compute = TrialCompute.of(config, self.full_macs, len(self.data.train))
        self._previews: dict[Phase, Tensor] = {}

    def new_companion(self, supernet_folder: Path | None) -> Companion | None:
        """Return what is trained beside a network, as it was beside the supernet or at random."""
        companion = new_companion(self.config, self.task, self.data, self.device, supernet_folder)
        if companion is not None:
            companion.take_teacher(self.supernet, self.device)
        return companion

    def go_on_beside(self, companion: Companion | None) -> None:
        """Take over the weights of what was trained beside an earlier network."""
        if self.companion is not None and companion is not None:
            self.companion.modules.load_state_dict(companion.modules.state_dict())

    def recalibrate(self, compact: nn.Module) -> None:
        """Move a freshly sliced network to the device and recalibrate its batch-norm."""
        config = self.config
        compact.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        recalibrate_norms(
            compact,
            self.task,
            self.data,
            self.device,
            num_batches=config.finetune.recalibration_batches,
            batch_size=config.optimizer.batch_size,
            seed=derive_seed(config.seed, "recalibrate"),
        )

    def take_preview(self, phase: Phase, network: nn.Module) -> None:
        """Keep a picture of what a network does after a phase, if the task draws one."""
        if not self.task.draws_previews:
            return
        shown = copy_network(network).to(self.device)
        picture = self.task.preview(shown, self.data, self.device)
        if picture is not None:
            self._previews[phase] = torch.from_numpy(picture)

    def measure(
        self,
        open_channels: Mapping[str, Sequence[int]],
        compact: nn.Module,
        training_macs: int | None,
    ) -> TrialResult:
        """Reparameterize and measure, the test split for the only time.

        Raises:
            DivergenceError: the score is no finite number.
        """
        data, where, metric = self.data, self.config.supernet, self.task.metric.name
        plain = reparameterize(compact)
        widths = {name: len(channels) for name, channels in open_channels.items()}
        macs = self.graph.count_macs(widths)
        metrics, test_metrics = (
            self.task.evaluate(plain, split, data, self.device)
            for split in (data.validation, data.test)
        )
        if not math.isfinite(metrics[metric]):
            raise DivergenceError(f"{metric} of the finished network is {metrics[metric]}")
        architecture = Architecture(
            task=self.config.task.name,
            task_options=dict(self.config.task.options),
            supernet=where.name,
            options=dict(where.options),
            scope=list(where.scope),
            pinned=list(where.pinned),
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
            training_macs=training_macs,
            score=metrics[metric],
            test_score=test_metrics[metric],
            metrics=metrics,
            test_metrics=test_metrics,
            seconds=self.clock.lap(),
            previews={phase: picture.numpy() for phase, picture in self._previews.items()},
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
        recipe: OptimizerConfig,
        lr_factor: Callable[[int, int, float], float],
        *,
        macs: Callable[[], float],
        widths: Callable[[], Mapping[str, int]] = dict,
        state: dict[str, Any] | None,
        extra_loss: Callable[[Tensor], Tensor] | None = None,
        keep: Mapping[str, Any] | None = None,
    ) -> None:
        """Train ``model`` for a phase, from ``state`` if given; ``keep`` goes into checkpoints."""
        model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = build_optimizer(model, recipe, recipe.learning_rate)
        if self.companion is not None:
            self.companion.begin(recipe.learning_rate)
        trainer = Trainer(
            model=model,
            optimizer=optimizer,
            task=self.task,
            data=self.data,
            recipe=recipe,
            phase=phase,
            num_epochs=num_epochs,
            lr_factor=lr_factor,
            seed=self.config.seed,
            device=self.device,
            extra_loss=extra_loss,
            companion=self.companion,
        )
        epochs = Epochs(
            trainer=trainer,
            checkpoint=self.checkpoint,
            report=self.report,
            clock=self.clock,
            macs_ratio=lambda: macs() / self.full_macs,
            widths=widths,
            previews=self._previews,
        )
        epochs.run(state, keep)
        self.take_preview(phase, model)
