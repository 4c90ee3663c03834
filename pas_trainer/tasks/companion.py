"""What is trained beside a network, and is no part of what comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from pas_trainer.optim import OptimizerConfig, build_optimizer, set_learning_rate


class Companion(ABC):
    """Takes part in the training of a network: discriminators, a generator the other way.

    A supernet's file keeps its weights, so that searches go on from them, and checkpoints keep its
    state.

    Args:
        recipe: as the network's.
        critics: trained on :meth:`own_loss`, on its device.
        partners: trained on :meth:`loss`, together with the network.
    """

    def __init__(
        self, recipe: OptimizerConfig, critics: nn.ModuleDict, partners: nn.ModuleDict
    ) -> None:
        self.critics, self.partners, self._recipe = critics, partners, recipe
        self.modules = nn.ModuleDict({"critics": critics, "partners": partners})
        self.begin(recipe.learning_rate)

    @abstractmethod
    def loss(self, network: nn.Module, inputs: Any, targets: Any) -> Tensor:
        """Return the network's loss on a batch (0-d), and remember what :meth:`own_loss` needs."""

    @abstractmethod
    def own_loss(self) -> Tensor:
        """Return the critics' loss on the batch that :meth:`loss` saw last."""

    def take_teacher(self, supernet: nn.Module, device: torch.device) -> None:  # noqa: B027
        """Learn from a trained supernet, if the task asks for it; called before a trial."""

    def begin(self, learning_rate: float) -> None:
        """Begin a phase, with a new optimizer and this peak learning rate."""
        has_any = any(True for _ in self.modules.parameters())
        self._optimizer = (
            build_optimizer(self.modules, self._recipe, learning_rate) if has_any else None
        )

    def zero_grad(self) -> None:
        """Forget gradients."""
        if self._optimizer is not None:
            self._optimizer.zero_grad(set_to_none=True)

    def step(self, lr_factor: float) -> None:
        """Train on the gradients of both losses at a share of the peak learning rate."""
        if self._optimizer is not None:
            set_learning_rate(self._optimizer, lr_factor)
            self._optimizer.step()
            self.zero_grad()

    def train(self) -> None:
        """Go to training mode."""
        self.modules.train()

    def state_dict(self) -> dict[str, Any]:
        """Return weights and optimizer."""
        optimizer = {} if self._optimizer is None else self._optimizer.state_dict()
        return {"modules": self.modules.state_dict(), "optimizer": optimizer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.modules.load_state_dict(state["modules"])
        if self._optimizer is not None:
            self._optimizer.load_state_dict(state["optimizer"])
