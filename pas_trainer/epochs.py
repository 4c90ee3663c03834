"""The epochs of one phase: after each it is evaluated, a checkpoint kept, and a report given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pas_trainer.checkpoint import Checkpoint
from pas_trainer.loop import EpochReport, Phase, Report, Trainer
from pas_trainer.phase_clock import PhaseClock


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """All epochs of a trainer's phase, from a checkpoint's state if there is one.

    Attributes:
        trainer: of this phase.
        checkpoint: kept after every epoch.
        report: called after every epoch.
        clock: set to the phase.
        macs_ratio: the network's MACs over the supernet's, asked after every epoch.
        widths: open channels by group, while they are searched.
        previews: pictures taken after earlier phases, kept in the checkpoint.
    """

    trainer: Trainer
    checkpoint: Checkpoint
    report: Report
    clock: PhaseClock
    macs_ratio: Callable[[], float]
    widths: Callable[[], Mapping[str, int]] = dict
    previews: dict[Phase, Tensor] = field(default_factory=dict)

    def run(self, state: Mapping[str, Any] | None, keep: Mapping[str, Any] | None = None) -> None:
        """Train what ``state`` leaves of the phase; ``keep`` goes into checkpoints.

        From a state, its last epoch is reported once more: whoever was to hear of it may have
        died meanwhile.

        Raises:
            DivergenceError: the loss became infinite or NaN.
        """
        trainer = self.trainer
        self.clock.phase = trainer.phase
        for epoch in range(0 if state is None else self._take_up(state), trainer.num_epochs):
            loss = trainer.train_epoch(epoch)
            metrics = trainer.task.evaluate(
                trainer.model, trainer.data.validation, trainer.data, trainer.device
            )
            told = {
                "loss": loss,
                "score": metrics[trainer.task.metric.name],
                "metrics": metrics,
                "macs_ratio": self.macs_ratio(),
                "widths": self.widths(),
            }
            seconds = self.clock.lap()
            self._save(epoch + 1, told, seconds, keep or {})
            self._tell(epoch + 1, told, seconds)

    def _save(
        self,
        epoch: int,
        told: Mapping[str, Any],
        seconds: Mapping[str, float],
        keep: Mapping[str, Any],
    ) -> None:
        trainer = self.trainer
        companion = trainer.companion
        self.checkpoint.save(
            phase=trainer.phase,
            epoch=epoch,
            model=trainer.model.state_dict(),
            optimizer=trainer.optimizer.state_dict(),
            companion=None if companion is None else companion.state_dict(),
            told=told,
            previews=self.previews,
            seconds=seconds,
            **keep,
        )

    def _take_up(self, state: Mapping[str, Any]) -> int:
        """Bring the phase to where a checkpoint left it; return how many epochs it had."""
        trainer = self.trainer
        trainer.model.load_state_dict(state["model"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        if trainer.companion is not None:
            trainer.companion.load_state_dict(state["companion"])
        self.previews.update(state["previews"])
        self.clock.resume(state["seconds"])
        self._tell(state["epoch"], state["told"], self.clock.lap())
        epochs: int = state["epoch"]
        return epochs

    def _tell(self, epoch: int, told: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        trainer = self.trainer
        self.report(
            EpochReport(
                phase=trainer.phase,
                epoch=epoch,
                num_epochs=trainer.num_epochs,
                seconds=seconds,
                **told,
            )
        )
