"""SGD or AdamW, what they must not decay, and the learning-rate curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from pas_trainer.gates import Gate
from pas_trainer.keys import ADDED

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """Recipe shared by all phases (``optimizer:`` in a sweep file)."""

    name: Literal["sgd", "adamw"] = field(default="sgd", metadata=ADDED)
    """Of the weights: ``sgd`` with Nesterov momentum, or ``adamw``. Gate scores always go by SGD,
    so that they move by the size of their gradients."""
    learning_rate: float = 0.05
    """Peak learning rate of the weights in every phase, per step, not scaled by batch size."""
    gate_learning_rate: float = 0.1
    """Peak learning rate of the gate scores."""
    momentum: float = 0.9
    """Of ``adamw``, the decay rate of the mean gradient (its first beta)."""
    weight_decay: float = 5e-4
    """On weights of convolutions and linear layers, and on other parameters with two sizes above 1
    (a transformer's position embedding); never on scores, biases and norms."""
    label_smoothing: float = 0.1
    batch_size: int = 128
    """Images per step."""
    micro_batches: int = 1
    """Parts that each batch is trained in, one after the other, to save memory. Their gradients add
    up to the batch's; batch-norm takes its statistics part by part."""
    warmup_epochs: float = 1.0
    """Epochs over which each phase's learning rate rises from near 0 to its peak."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.name not in {"sgd", "adamw"}:
            raise ValueError(f"name is {self.name!r}; known: sgd, adamw")
        for name in ("learning_rate", "gate_learning_rate"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; it must be a number above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must be in [0, 1)")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay is {self.weight_decay}; it must be at least 0")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it must be in [0, 1)")
        if self.batch_size < 2:
            raise ValueError(f"batch_size is {self.batch_size}; batch-norm needs at least 2")
        if not 1 <= self.micro_batches <= self.batch_size // 2:
            raise ValueError(
                f"micro_batches is {self.micro_batches}; it must be at least 1 and leave 2 images "
                f"of a batch of {self.batch_size} in each part, since batch-norm needs as many"
            )
        if not (math.isfinite(self.warmup_epochs) and self.warmup_epochs >= 0):
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}; it must be at least 0")


class Optimizer(Protocol):
    """What is asked of an optimizer."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Parameters with their settings."""
        ...

    def step(self) -> Any:
        """Move the parameters by their gradients."""
        ...

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what it remembers."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what another one remembered."""
        ...


class Together:
    """Several optimizers as one."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._optimizers = optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all."""
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    def step(self) -> None:
        """Let each make its step."""
        for optimizer in self._optimizers:
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return what each remembers."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self._optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what others remembered."""
        for optimizer, state in zip(self._optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)


def build_optimizer(model: nn.Module, config: OptimizerConfig, learning_rate: float) -> Optimizer:
    """Return the optimizer of three groups: weights, biases and norms, scores.

    Each group carries ``peak_lr``, from which :func:`set_learning_rate` computes ``lr``.
    """
    modules = list(model.modules())
    scores = {id(m.scores) for m in modules if isinstance(m, Gate)}
    layers = {id(m.weight) for m in modules if isinstance(m, _ConvNd | nn.Linear)}
    norms = {id(p) for m in modules if isinstance(m, _NORMS) for p in m.parameters()}
    gates = [p for p in model.parameters() if id(p) in scores]
    rest = [p for p in model.parameters() if id(p) not in scores]
    decayed = {id(p) for p in rest if id(p) in layers or _is_matrix(p)} - norms
    weights = [p for p in rest if id(p) in decayed]
    others = [p for p in rest if id(p) not in decayed]
    groups = [
        {"params": weights, "weight_decay": config.weight_decay, "peak_lr": learning_rate},
        {"params": others, "weight_decay": 0.0, "peak_lr": learning_rate},
        {"params": gates, "weight_decay": 0.0, "peak_lr": config.gate_learning_rate},
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "sgd":
        return _sgd(groups, config)
    ours = [group for group in groups if group["params"] is not gates]
    beta = (config.momentum, 0.999)
    adamw = torch.optim.AdamW(ours, lr=learning_rate, betas=beta, fused=_all_real(ours))
    return Together([adamw, *([_sgd(groups[-1:], config)] if gates else [])])


def _sgd(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.SGD:
    momentum = config.momentum
    sgd = torch.optim.SGD(
        groups,
        lr=groups[0]["peak_lr"],
        momentum=momentum,
        nesterov=momentum > 0,
        fused=_all_real(groups),
    )
    if momentum > 0:
        sgd.register_step_pre_hook(_give_momentum)
    return sgd


def _all_real(groups: list[dict[str, Any]]) -> bool:
    """Whether no parameter is complex; torch's fused steps know real ones only."""
    return not any(p.is_complex() for group in groups for p in group["params"])


def _give_momentum(sgd: torch.optim.Optimizer, _args: object, _kwargs: object) -> None:
    """Let parameters that get their first gradient after others start with a momentum of zeros.

    So does SGD itself, but its fused step cannot tell such parameters from others.
    """
    for group in sgd.param_groups:
        reached = [p for p in group["params"] if p.grad is not None]
        late = [p for p in reached if sgd.state.get(p, {}).get("momentum_buffer") is None]
        if len(late) < len(reached):  # else it is the first step of all, left to SGD
            for parameter in late:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _is_matrix(parameter: nn.Parameter) -> bool:
    """Whether it mixes channels; a scale per channel, whatever its shape, does not."""
    return sum(size > 1 for size in parameter.shape) > 1


def set_learning_rate(optimizer: Optimizer, factor: float) -> None:
    """Set every group's learning rate to ``factor`` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["peak_lr"]


def cosine_factor(step: int, num_steps: int, warmup_steps: float) -> float:
    """Linear warm-up to 1, then half a cosine down to 0 at ``num_steps``; ``step`` from 0."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1.0, num_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
