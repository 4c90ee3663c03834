"""One epoch of training, one pass of evaluation, and what both need: device, seeds, reports."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from pas_trainer.data import ClassificationData
from pas_trainer.data.batches import Batch, Share, Split
from pas_trainer.errors import DivergenceError
from pas_trainer.graphed_step import Gradients, recorded
from pas_trainer.optim import OptimizerConfig, set_learning_rate
from pas_trainer.strided_convolutions import subsampled_reads
from pas_trainer.workers import (
    data_parallel,
    num_workers,
    sum_over_workers,
    synced_norms,
    worker_rank,
)

Phase = Literal["pretrain", "search", "finetune", "control"]

EVAL_BATCH = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochReport:
    """What one finished epoch has to tell.

    Attributes:
        phase: pretrain, search or finetune; control: the whole training of a control.
        epoch: epochs of this phase that are done, from 1.
        num_epochs: epochs of this phase in all.
        loss: mean training loss over the epoch, all terms.
        accuracy: on the validation split, in [0, 1].
        macs_ratio: the network's MACs (in deploy form, gates counted) over the supernet's.
        seconds: wall time by phase until now, that of earlier starts included.
        widths: open channels by group, while they are searched.
    """

    phase: Phase
    epoch: int
    num_epochs: int
    loss: float
    accuracy: float
    macs_ratio: float
    seconds: Mapping[str, float] = field(compare=False)
    widths: Mapping[str, int] = field(default_factory=dict)


Report = Callable[[EpochReport], None]
"""Called after every epoch, checkpoint already written."""


def ignore_report(_report: EpochReport) -> None:
    """Do nothing with a report."""


def pick_device(name: str) -> torch.device:
    """Return the device of that name; ``auto`` is CUDA where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def derive_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends on every part, the same in every process."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Normalizer:
    """Turns uint8 image batches into what a network reads, on its device, channels last."""

    def __init__(self, data: ClassificationData, device: torch.device) -> None:
        self._device = device
        mean, std = (torch.tensor(v, device=device).view(-1, 1, 1) for v in (data.mean, data.std))
        self._scale, self._shift = 1 / (255 * std), -mean / std

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return normalised images float32 (N, C, H, W) and labels (N,) on the device."""
        images, labels = (t.to(self._device, non_blocking=True) for t in batch)
        scaled = torch.addcmul(self._shift, images.float(), self._scale)
        return scaled.contiguous(memory_format=torch.channels_last), labels


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
        data: splits and normalisation.
        recipe: batch size, smoothing, warm-up.
        phase: name that the seeds depend on.
        num_epochs: length of the phase.
        lr_factor: learning-rate factor of (step, steps in all, warm-up steps).
        seed: of the trial.
        device: where to train.
        extra_loss: further term of the loss, given the share of the phase that is done (a 0-d
            float64 tensor).

    Raises:
        ValueError: several workers cannot have equal shares of a batch.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    data: ClassificationData
    recipe: OptimizerConfig
    phase: Phase
    num_epochs: int
    lr_factor: Callable[[int, int, float], float]
    seed: int
    device: torch.device
    extra_loss: Callable[[Tensor], Tensor] | None = None
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
        share = _share()
        size = self.recipe.batch_size
        steps_per_epoch = max(1, len(self.data.train) // size)
        num_steps = steps_per_epoch * self.num_epochs
        warmup = min(self.recipe.warmup_epochs * steps_per_epoch, num_steps / 2)
        normalize = Normalizer(self.data, self.device)
        total = torch.zeros((), device=self.device)
        self.model.train()
        self.prepare()
        torch.manual_seed(seed + share.rank)
        step = epoch * steps_per_epoch
        for batch in self.data.train.train_batches(size, seed, share):
            set_learning_rate(self.optimizer, self.lr_factor(step, num_steps, warmup))
            total += self.step(*normalize(batch), step / num_steps)
            step += 1
        self.optimizer.zero_grad(set_to_none=True)
        num_terms = share.size * max(1, step - epoch * steps_per_epoch)
        mean = float(sum_over_workers(total)) / num_terms
        if not math.isfinite(mean):
            raise DivergenceError(
                f"the loss became {mean} in {self.phase} epoch {epoch + 1}; "
                "lower the learning rates or the strength"
            )
        return mean

    def prepare(self) -> None:
        """Get ready for steps, once; the model is in training mode."""
        if self._run is not None:
            return
        self._network, self._run = data_parallel(self.model), self._gradients
        if self.device.type == "cuda" and num_workers() == 1:
            size = min(self.recipe.batch_size, len(self.data.train))
            shape = (size, self.data.channels, self.data.image_size, self.data.image_size)
            images = torch.zeros(shape, device=self.device)
            self._run = recorded(
                self._gradients,
                self.model,
                images.contiguous(memory_format=torch.channels_last),
                torch.zeros(size, dtype=torch.long, device=self.device),
            )

    def step(self, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        """Train on one batch after :meth:`prepare`.

        Args:
            images: normalised, on the device, (N, C, H, W).
            labels: (N,).
            progress: share of the phase that is done.

        Returns:
            The loss, a 0-d tensor that the next step may change.
        """
        assert self._run is not None, "prepare() comes first"
        now = torch.full((), progress, dtype=torch.float64, device=self.device)
        loss = self._run(images, labels, now)
        self.optimizer.step()
        return loss

    def _gradients(self, images: Tensor, labels: Tensor, progress: Tensor) -> Tensor:
        """Leave the gradients of a batch in the parameters and return its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for part, its_labels in self._parts(images, labels):
            loss = self._loss(part, its_labels, progress) * (len(part) / len(images))
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _parts(self, images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the micro-batches of a batch, equal in size up to one image."""
        count = min(self.recipe.micro_batches, len(images) // 2 or 1)
        yield from zip(images.tensor_split(count), labels.tensor_split(count), strict=True)

    def _loss(self, images: Tensor, labels: Tensor, progress: Tensor) -> Tensor:
        with contextlib.ExitStack() as stack:
            stack.enter_context(autocast(self.device))
            if num_workers() > 1:
                stack.enter_context(synced_norms())
            if self.device.type == "cpu":
                stack.enter_context(subsampled_reads())
            logits = logits_of(self._network(images))
            loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        if self.extra_loss is not None:
            loss = loss + self.extra_loss(progress).to(loss.dtype)
        return loss


def logits_of(output: Any) -> Tensor:
    """Return the logits (N, classes) of what a network returned.

    Some networks of torchvision return a named tuple in training mode: logits and what auxiliary
    heads say, which is not used.

    Raises:
        ValueError: there are no logits in it.
    """
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise ValueError(  # noqa: TRY004
            f"the network returns an object of type {type(output).__name__}; it must return logits"
        )
    return logits


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 on CUDA, nothing elsewhere."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


@torch.inference_mode()
def evaluate(
    model: nn.Module, split: Split, data: ClassificationData, device: torch.device
) -> float:
    """Return the share of images in ``split`` that ``model`` classifies correctly, in [0, 1]."""
    normalize = Normalizer(data, device)
    model.eval()
    correct = torch.zeros((), dtype=torch.long, device=device)
    for batch in split.eval_batches(EVAL_BATCH, _share()):
        images, labels = normalize(batch)
        with autocast(device):
            predicted = logits_of(model(images)).argmax(dim=1)
        correct += (predicted == labels).sum()
    return int(sum_over_workers(correct)) / len(split)


def _share() -> Share:
    return Share(worker_rank(), num_workers())


def recalibrate_norms(
    model: nn.Module,
    data: ClassificationData,
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
    normalize = Normalizer(data, device)

    def images() -> Iterator[Tensor]:
        for i, batch in enumerate(data.train.train_batches(batch_size, seed)):
            if i == num_batches:
                return
            yield normalize(batch)[0]

    update_bn(images(), model)
