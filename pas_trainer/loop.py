"""One epoch of training, and what belongs to it: seeds, reports, norms that are set anew."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from pas_trainer.devices import autocast
from pas_trainer.errors import DivergenceError
from pas_trainer.graphed_step import Gradients, recorded
from pas_trainer.optim import Optimizer, OptimizerConfig, set_learning_rate
from pas_trainer.recomputation import without_recomputation
from pas_trainer.strided_convolutions import subsampled_reads
from pas_trainer.tasks import Companion, Task, TaskData
from pas_trainer.workers import (
    data_parallel,
    num_workers,
    own_share,
    sum_over_workers,
    synced_norms,
)

Phase = Literal["pretrain", "search", "finetune", "control"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochReport:
    """What one finished epoch has to tell.

    Attributes:
        phase: pretrain, search or finetune; control: the whole training of a control.
        epoch: epochs of this phase that are done, from 1.
        num_epochs: epochs of this phase in all.
        loss: mean training loss over the epoch, all terms.
        score: the task's metric on the validation split, see :attr:`Task.metric`.
        metrics: all figures that the task measures there, by name; the score is one of them.
        macs_ratio: the network's MACs (in deploy form, gates counted) over the supernet's.
        seconds: wall time by phase until now, that of earlier starts included.
        widths: open channels by group, while they are searched.
    """

    phase: Phase
    epoch: int
    num_epochs: int
    loss: float
    score: float
    metrics: Mapping[str, float]
    macs_ratio: float
    seconds: Mapping[str, float] = field(compare=False)
    widths: Mapping[str, int] = field(default_factory=dict)


Report = Callable[[EpochReport], None]
"""Called after every epoch, checkpoint already written."""


def ignore_report(_report: EpochReport) -> None:
    """Do nothing with a report."""


def derive_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends on every part, the same in every process."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(kw_only=True)
class Trainer:
    """Trains one network for one phase, epoch by epoch.

    Every epoch draws its randomness from (seed, phase, epoch) alone, so that a phase resumed
    after epoch k goes on exactly as if it had never stopped. Several workers share each batch, see
    :mod:`pas_trainer.workers`. On a GPU one worker replays its step, see
    :mod:`pas_trainer.graphed_step`.

    Attributes:
        model: in training form, on ``device``, channels last.
        optimizer: made by :func:`pas_trainer.optim.build_optimizer`.
        task: what the network is for.
        data: splits and normalisation.
        recipe: batch size, smoothing, warm-up.
        phase: name that the seeds depend on.
        num_epochs: length of the phase.
        lr_factor: learning-rate factor of (step, steps in all, warm-up steps).
        seed: of the trial.
        device: where to train.
        extra_loss: further term of the loss, given the share of the phase that is done (a 0-d
            float64 tensor).
        companion: what is trained beside the network; its phase has begun.

    Raises:
        ValueError: several workers cannot have equal shares of a batch.
    """

    model: nn.Module
    optimizer: Optimizer
    task: Task
    data: TaskData
    recipe: OptimizerConfig
    phase: Phase
    num_epochs: int
    lr_factor: Callable[[int, int, float], float]
    seed: int
    device: torch.device
    extra_loss: Callable[[Tensor], Tensor] | None = None
    companion: Companion | None = None
    _network: nn.Module = field(init=False, repr=False)
    _run: Gradients | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check that a batch can be shared."""
        size = min(self.recipe.batch_size, len(self.data.train))
        if size % num_workers():
            raise ValueError(
                f"batches of {size} images cannot be shared equally by {num_workers()} workers"
            )

    def train_epoch(self, epoch: int) -> float:
        """Train epoch ``epoch`` (from 0) and return its mean loss.

        Raises:
            DivergenceError: the loss is not a finite number.
        """
        seed = derive_seed(self.seed, self.phase, epoch)
        share = own_share()
        size = self.recipe.batch_size
        steps_per_epoch = max(1, len(self.data.train) // size)
        num_steps = steps_per_epoch * self.num_epochs
        warmup = min(self.recipe.warmup_epochs * steps_per_epoch, num_steps / 2)
        prepare = self.task.preparer(self.data, self.device)
        total = torch.zeros((), device=self.device)
        self.model.train()
        self.prepare()
        torch.manual_seed(seed + share.rank)
        step = epoch * steps_per_epoch
        for batch in self.data.train.train_batches(size, seed, share):
            factor = self.lr_factor(step, num_steps, warmup)
            set_learning_rate(self.optimizer, factor)
            total += self.step(*prepare(batch), step / num_steps)
            if self.companion is not None:
                self.companion.step(factor)
            step += 1
        self.optimizer.zero_grad(set_to_none=True)
        num_terms = share.size * max(1, step - epoch * steps_per_epoch)
        mean = float(sum_over_workers(total)) / num_terms
        if not math.isfinite(mean):
            remedy = "learning rates or the strength" if self.extra_loss else "learning rate"
            raise DivergenceError(
                f"the loss became {mean} in {self.phase} epoch {epoch + 1}; lower the {remedy}"
            )
        return mean

    def prepare(self) -> None:
        """Get ready for steps, once; the model is in training mode."""
        if self._run is not None:
            return
        self._network, self._run = data_parallel(self.model), self._gradients
        if self.companion is not None:
            self.companion.train()
        alone = num_workers() == 1 and self.companion is None
        if self.device.type == "cuda" and alone and self.task.has_fixed_shapes:
            size = min(self.recipe.batch_size, len(self.data.train))
            batch = next(iter(self.data.train.train_batches(size, seed=0)))
            inputs, targets = self.task.preparer(self.data, self.device)(batch)
            self._run = recorded(self._gradients, self.model, inputs, targets)

    def step(self, inputs: Any, targets: Any, progress: float) -> Tensor:
        """Train on one batch after :meth:`prepare`; a companion is left with its gradients.

        Args:
            inputs, targets: see :meth:`Task.preparer`.
            progress: share of the phase that is done.

        Returns:
            The loss, a 0-d tensor that the next step may change.
        """
        assert self._run is not None, "prepare() comes first"
        now = torch.full((), progress, dtype=torch.float64, device=self.device)
        loss = self._run(inputs, targets, now)
        self.optimizer.step()
        return loss

    def _gradients(self, inputs: Any, targets: Any, progress: Tensor) -> Tensor:
        """Leave the gradients of a batch in the parameters and return its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for part, its_targets in self._parts(inputs, targets):
            share = len(part) / len(inputs)
            loss = self._loss(part, its_targets, progress) * share
            if self.companion is None:
                loss.backward()  # type: ignore[no-untyped-call]
            else:
                self._backward_beside(loss, self.companion, share)
            total += loss.detach()
        return total

    def _backward_beside(self, loss: Tensor, companion: Companion, share: float) -> None:
        """Leave the gradients of the common loss, and of the critics' own."""
        trained = _trained(self.model, companion.partners)
        loss.backward(inputs=trained)  # type: ignore[no-untyped-call]
        if critics := _trained(companion.critics):
            with autocast(self.device):
                own = companion.own_loss() * share
            own.backward(inputs=critics)  # type: ignore[no-untyped-call]

    def _parts(self, inputs: Any, targets: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the micro-batches of a batch, equal in size up to one image."""
        count = min(self.recipe.micro_batches, len(inputs) // 2 or 1)
        yield from zip(_split(inputs, count), _split(targets, count), strict=True)

    def _loss(self, inputs: Any, targets: Any, progress: Tensor) -> Tensor:
        with contextlib.ExitStack() as stack:
            if self.task.takes_bfloat16:
                stack.enter_context(autocast(self.device))
            if num_workers() > 1:
                stack.enter_context(synced_norms())
            if self.device.type == "cpu":
                stack.enter_context(subsampled_reads())
                stack.enter_context(without_recomputation())
            if self.companion is not None:
                loss = self.companion.loss(self._network, inputs, targets)
            else:
                outputs = self.task.forward(self._network, inputs, targets)
                loss = self.task.loss(outputs, targets, self.recipe)
        if self.extra_loss is not None:
            loss = loss + self.extra_loss(progress).to(loss.dtype)
        return loss


def _trained(*modules: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are not frozen."""
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def _split(items: Any, count: int) -> Sequence[Any]:
    """Cut a tensor or list into ``count`` parts, equal in length up to one item."""
    if isinstance(items, Tensor):
        return items.tensor_split(count)
    size, longer = divmod(len(items), count)
    starts = [part * size + min(part, longer) for part in range(count + 1)]
    return [items[start:end] for start, end in itertools.pairwise(starts)]


def recalibrate_norms(
    model: nn.Module,
    task: Task,
    data: TaskData,
    device: torch.device,
    *,
    num_batches: int,
    batch_size: int,
    seed: int,
) -> None:
    """Replace batch-norm statistics by the plain average over ``num_batches`` training batches.

    Slicing changes what reaches a layer, so statistics gathered before no longer fit. Of several
    workers each does all of it.
    """
    prepare = task.preparer(data, device)
    torch.manual_seed(seed)  # for what drops or samples at random

    def batches() -> Iterator[list[Any]]:
        for i, batch in enumerate(data.train.train_batches(batch_size, seed)):
            if i == num_batches:
                return
            yield [prepare(batch)]  # of a list the first item is passed on

    update_bn(batches(), _TrainingPass(model, task))


class _TrainingPass(nn.Module):
    """A network that takes inputs and targets together."""

    def __init__(self, network: nn.Module, task: Task) -> None:
        super().__init__()
        self.network, self._task = network, task

    def forward(self, batch: tuple[Any, Any]) -> Any:
        """Pass a training batch through the network."""
        return self._task.forward(self.network, *batch)
