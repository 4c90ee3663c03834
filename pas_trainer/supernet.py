"""Training of the supernet that all trials of a sweep start from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pas_trainer.checkpoint import Checkpoint
from pas_trainer.compute import images_per_epoch, training_macs
from pas_trainer.config import SupernetTraining, content_key
from pas_trainer.data import ClassificationData, load_data
from pas_trainer.loop import (
    EpochReport,
    Report,
    Trainer,
    derive_seed,
    evaluate,
    ignore_report,
    pick_device,
)
from pas_trainer.optim import build_optimizer, cosine_factor
from pas_trainer.phase_clock import PhaseClock
from pas_trainer.weights import load_weights
from pas_trainer.workers import from_first, is_first
from search_space import ChannelGraph, SupernetConfig, build_supernet, trace_channels


@dataclass(frozen=True, slots=True)
class SupernetResult:
    """A trained supernet's measures.

    Attributes:
        macs, num_params: in deploy form, one image.
        accuracy, test_accuracy: on the validation and the test split, in [0, 1].
        left_at_random: tensors for which the given weights did not fit, see
            :func:`pas_trainer.weights.load_weights`.
        training_macs: what its training took, see :mod:`pas_trainer.compute`; 0 for given weights
            that are taken as they are. ``None`` in files of earlier versions.
        seconds: wall time of that, as :attr:`pas_trainer.TrialResult.seconds`; does not make
            two results different.
    """

    macs: int
    num_params: int
    accuracy: float
    test_accuracy: float
    left_at_random: tuple[str, ...] = ()
    training_macs: int | None = None
    seconds: float | None = field(default=None, compare=False)


def new_supernet(config: SupernetConfig, data: ClassificationData) -> nn.Module:
    """Build the supernet for these images, randomly initialised."""
    return build_supernet(config.name, len(data.classes), data.channels, **config.options)


def trace_supernet(
    network: nn.Module,
    shape: tuple[int, int, int],
    *,
    scope: Sequence[str] = (),
    pinned: Sequence[str] = (),
) -> ChannelGraph:
    """Trace a network for images of ``shape`` (C, H, W); the network may be on the meta device.

    Raises:
        ValueError: nothing can be searched, see :func:`search_space.trace_channels`.
    """
    return trace_channels(network, torch.empty((1, *shape)), scope=tuple(scope), pinned=pinned)


def train_supernet(
    config: SupernetTraining, folder: Path, report: Report = ignore_report
) -> SupernetResult:
    """Train the supernet, or return at once if ``folder`` holds it already.

    With ``config.supernet.weights`` it starts from those; with 0 epochs it stays at them. Writes
    ``supernet.safetensors`` and, last, ``supernet.json``; resumes after a kill.

    Raises:
        DataError: the images cannot be used.
        WeightsError: the weights cannot be had or do not fit.
        DivergenceError: the loss became infinite or NaN.
    """
    done = from_first(lambda: read_supernet_result(folder))
    if done is not None and done.training_macs is not None:
        return done
    clock = PhaseClock("pretrain")
    device = pick_device(config.device)
    data = load_data(config.data, device)
    epoch_images = images_per_epoch(len(data.train), config.optimizer.batch_size)
    if done is not None:  # by an earlier version, which did not count
        spent = training_macs(done.macs, epoch_images, config.pretrain.epochs)
        return _keep(replace(done, training_macs=spent), folder)
    torch.manual_seed(derive_seed(config.seed, "supernet"))
    model = new_supernet(config.supernet, data)
    left: tuple[str, ...] = ()
    if config.supernet.weights is not None:
        left = load_weights(config.supernet, model, len(data.classes))
    cost = deploy_cost(model, config.supernet, data)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    _train(config, model, data, device, folder, report, clock)
    result = SupernetResult(
        *cost,
        accuracy=evaluate(model, data.validation, data, device),
        test_accuracy=evaluate(model, data.test, data, device),
        left_at_random=left,
        training_macs=training_macs(cost[0], epoch_images, config.pretrain.epochs),
        seconds=clock.lap()["pretrain"],
    )
    if is_first():
        save_weights(model, folder / "supernet.safetensors")
    _keep(result, folder)
    Checkpoint(folder, "").remove()
    return result


def _keep(result: SupernetResult, folder: Path) -> SupernetResult:
    if not is_first():
        return result
    draft = folder / "supernet.json.tmp"
    draft.write_text(json.dumps(asdict(result)))
    draft.replace(folder / "supernet.json")
    return result


def read_supernet_result(folder: Path) -> SupernetResult | None:
    """Return the measures of the supernet trained in ``folder``, or ``None``."""
    path = folder / "supernet.json"
    if not path.exists():
        return None
    document = json.loads(path.read_text())
    document["left_at_random"] = tuple(document["left_at_random"])
    return SupernetResult(**document)


def load_supernet(config: SupernetConfig, data: ClassificationData, folder: Path) -> nn.Module:
    """Return the supernet that :func:`train_supernet` left in ``folder``, on the CPU."""
    model = new_supernet(config, data)
    model.load_state_dict(load_file(folder / "supernet.safetensors"))
    return model


def save_weights(model: nn.Module, path: Path) -> None:
    """Write all parameters and buffers as safetensors, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    # Cloned, since a file holds no tensor twice and some networks share theirs.
    state = {n: t.detach().cpu().contiguous().clone() for n, t in model.state_dict().items()}
    save_file(state, draft)
    draft.replace(path)


def deploy_cost(
    model: nn.Module, config: SupernetConfig, data: ClassificationData
) -> tuple[int, int]:
    """Return MACs and parameters of ``model`` in deploy form, for one image."""
    shape = (data.channels, data.image_size, data.image_size)
    graph = trace_supernet(model, shape, scope=config.scope, pinned=config.pinned)
    return graph.count_macs(), graph.count_params()


def _train(
    config: SupernetTraining,
    model: nn.Module,
    data: ClassificationData,
    device: torch.device,
    folder: Path,
    report: Report,
    clock: PhaseClock,
) -> None:
    optimizer = build_optimizer(model, config.optimizer, config.optimizer.learning_rate)
    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        data=data,
        recipe=config.optimizer,
        phase="pretrain",
        num_epochs=config.pretrain.epochs,
        lr_factor=cosine_factor,
        seed=config.seed,
        device=device,
    )
    checkpoint = Checkpoint(folder, content_key(config))
    start = 0
    if (state := checkpoint.load()) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["epoch"]
        clock.resume(state.get("seconds", {}))  # missing in earlier versions
    for epoch in range(start, config.pretrain.epochs):
        loss = trainer.train_epoch(epoch)
        accuracy = evaluate(model, data.validation, data, device)
        seconds = clock.lap()
        checkpoint.save(
            epoch=epoch + 1,
            model=model.state_dict(),
            optimizer=optimizer.state_dict(),
            seconds=seconds,
        )
        report(
            EpochReport(
                phase="pretrain",
                epoch=epoch + 1,
                num_epochs=config.pretrain.epochs,
                loss=loss,
                accuracy=accuracy,
                macs_ratio=1.0,
                seconds=seconds,
            )
        )
