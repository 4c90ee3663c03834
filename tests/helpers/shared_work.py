"""What the tests of workers let them do; importable, since workers are processes of their own."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch
from digits_trial import DATA, RECIPE, SUPERNET, TRIAL
from torch import Tensor, nn

from pas_trainer import (
    DataError,
    FinetuneConfig,
    OptimizerConfig,
    PretrainConfig,
    SearchConfig,
    SupernetTraining,
    attach_gates,
    run_search,
    train_supernet,
)
from pas_trainer.data import load_data
from pas_trainer.loop import Trainer
from pas_trainer.optim import build_optimizer
from pas_trainer.supernet import load_supernet, trace_supernet
from pas_trainer.tasks import Classification
from pas_trainer.workers import from_first, num_workers, synced_norms, worker_rank

SHORT_TRIAL = dataclasses.replace(
    TRIAL,
    search=SearchConfig(epochs=2),
    finetune=FinetuneConfig(epochs=2, recalibration_batches=5),
)


def normed(images: Tensor) -> dict[str, Tensor]:
    """Normalise this worker's share of a batch (N, C, H, W); return what came of all shares."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(images.shape[1]).double()
    nn.init.normal_(norm.weight)
    own = images[worker_rank() :: num_workers()].clone().requires_grad_()
    with synced_norms():
        out = norm(own)
    # Not symmetric in the images, so that statistics have gradients of their own.
    out.square().mul(torch.arange(out.numel()).view_as(out) % 7 + own.detach()).sum().backward()
    return {
        "output": out.detach(),
        "gradient": own.grad,
        "weight_gradient": norm.weight.grad,
        "running_mean": norm.running_mean,
        "running_var": norm.running_var,
    }


def gated_epoch(supernet_folder: Path) -> tuple[float, float, dict[str, Tensor]]:
    """Train a gated network for an epoch; return loss, accuracy and all that was trained."""
    task, data = Classification(), load_data(DATA)
    supernet = load_supernet(SUPERNET, task, data, supernet_folder)
    graph = trace_supernet(supernet, task, data)
    gated = attach_gates(supernet, graph)
    recipe = dataclasses.replace(RECIPE, label_smoothing=0.0)
    trainer = Trainer(
        model=gated,
        optimizer=build_optimizer(gated, recipe, 0.01),
        task=task,
        data=data,
        recipe=recipe,
        phase="search",
        num_epochs=1,
        lr_factor=lambda *_: 1.0,
        seed=0,
        device=torch.device("cpu"),
        extra_loss=lambda _progress: (gated.cost("macs") / graph.count_macs()) ** 2,
    )
    loss = trainer.train_epoch(0)
    metrics = task.evaluate(gated, data.validation, data, torch.device("cpu"))
    return loss, metrics["accuracy"], copy.deepcopy(gated.state_dict())


def whole_trial(supernet_folder: Path, checkpoint_folder: Path) -> tuple[Any, ...]:
    """Run a trial; return its widths, accuracy and weights."""
    result = run_search(SHORT_TRIAL, supernet_folder, checkpoint_folder=checkpoint_folder)
    return result.widths, result.score, result.network.state_dict()


def supernet(folder: Path) -> Any:
    """Train a supernet into ``folder``."""
    training = SupernetTraining(
        data=DATA, supernet=SUPERNET, optimizer=RECIPE, pretrain=PretrainConfig(epochs=1)
    )
    return train_supernet(training, folder)


def odd_batches(supernet_folder: Path) -> str:
    """Try batches that cannot be shared; return the error."""
    trial = dataclasses.replace(SHORT_TRIAL, optimizer=OptimizerConfig(batch_size=33))
    try:
        run_search(trial, supernet_folder)
    except ValueError as error:
        return str(error)
    return ""


def failing_on_first() -> str:
    """Let the first worker meet an error that the others do not; return what each is told."""

    def call() -> str:
        if worker_rank():
            return "fine"
        raise DataError("the file is broken")

    try:
        return from_first(call)
    except DataError as error:
        return str(error)
