"""Training of the supernet that all trials of a sweep start from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pas_trainer.checkpoint import Checkpoint
from pas_trainer.compute import images_per_epoch, training_macs
from pas_trainer.config import SupernetTraining, TrialConfig
from pas_trainer.devices import pick_device
from pas_trainer.epochs import Epochs
from pas_trainer.errors import DataError
from pas_trainer.keys import content_key
from pas_trainer.loop import Report, Trainer, derive_seed, ignore_report
from pas_trainer.network_checks import check_trainable
from pas_trainer.optim import build_optimizer, cosine_factor
from pas_trainer.phase_clock import PhaseClock
from pas_trainer.tasks import TASKS, About, Companion, Task, TaskData, make_task
from pas_trainer.weights import load_weights
from pas_trainer.whole_files import whole_file
from pas_trainer.workers import from_first, is_first
from search_space import ChannelGraph, SupernetConfig

SUPERNET_WEIGHTS, SUPERNET_RESULT = "supernet.safetensors", "supernet.json"
"""Files of a trained supernet's folder; its measures are written last."""

_COMPANION = "companion."
"""Before the names of what is trained beside a supernet, in its file."""

_TRACED: dict[str, ChannelGraph] = {}
"""The channel graph of this process's last trial, by what it depends on."""


@dataclass(frozen=True, slots=True)
class SupernetResult:
    """A trained supernet's measures.

    Attributes:
        macs, num_params: in deploy form, one image.
        score, test_score: the task's metric on the validation and the test split.
        left_at_random: tensors for which the given weights did not fit, see
            :func:`pas_trainer.weights.load_weights`.
        training_macs: what its training took, see :mod:`pas_trainer.compute`; 0 for given weights
            that are taken as they are.
        seconds: wall time of that, as :attr:`pas_trainer.TrialResult.seconds`; does not make
            two results different.
    """

    macs: int
    num_params: int
    score: float
    test_score: float
    training_macs: int
    seconds: float = field(compare=False)
    left_at_random: tuple[str, ...] = ()


def new_supernet(config: SupernetConfig, task: Task, about: About) -> nn.Module:
    """Build the supernet for these images, randomly initialised."""
    return task.build(config.name, config.options, about)


def trace_supernet(
    network: nn.Module,
    task: Task,
    about: About,
    *,
    scope: Sequence[str] = (),
    pinned: Sequence[str] = (),
) -> ChannelGraph:
    """Trace a task's network; it may be on the meta device.

    Raises:
        ValueError: nothing can be searched, see :func:`search_space.trace_channels`.
    """
    return task.trace(network, about, tuple(scope) or task.scopes, pinned)


def graph_of_trial(
    config: TrialConfig, network: nn.Module, task: Task, about: About
) -> ChannelGraph:
    """Trace a trial's supernet, once for all trials of a sweep that a process runs.

    Raises:
        ValueError: nothing can be searched, see :func:`search_space.trace_channels`.
    """
    where = config.supernet
    shapes = [[name, list(tensor.shape)] for name, tensor in network.state_dict().items()]
    key = content_key(config.task, where, [about.channels, about.image_size], shapes)
    if key not in _TRACED:
        graph = trace_supernet(network, task, about, scope=where.scope, pinned=where.pinned)
        _TRACED.clear()
        _TRACED[key] = graph
    return _TRACED[key]


def train_supernet(
    config: SupernetTraining, folder: Path, report: Report = ignore_report
) -> SupernetResult:
    """Train the supernet, or return at once if ``folder`` holds one already.

    A folder is for one configuration: what a finished supernet was trained by is not looked at.
    With ``config.supernet.weights`` it starts from those; with 0 epochs it stays at them. Writes
    :data:`SUPERNET_WEIGHTS` and, last, :data:`SUPERNET_RESULT`; resumes after a kill.

    Raises:
        DataError: the images cannot be used.
        WeightsError: the weights cannot be had or do not fit.
        DivergenceError: the loss became infinite or NaN.
        TaskError: code of the user's own task failed.
        ValueError: the network cannot be trained or kept, see
            :func:`pas_trainer.network_checks.check_trainable`.
    """
    done = from_first(lambda: read_supernet_result(folder))
    if done is not None:
        return done
    clock = PhaseClock("pretrain")
    device, task = pick_device(config.device), make_task(config.task)
    data = task.load_data(config.data, device)
    epoch_images = images_per_epoch(len(data.train), config.optimizer.batch_size)
    _try_judge(config, task, data, device)
    torch.manual_seed(derive_seed(config.seed, "supernet"))
    model = new_supernet(config.supernet, task, data)
    check_trainable(model)
    left: tuple[str, ...] = ()
    if config.supernet.weights is not None:
        left = load_weights(config.supernet, model, task.num_outputs(data))
    graph = trace_supernet(
        model, task, data, scope=config.supernet.scope, pinned=config.supernet.pinned
    )
    macs = graph.count_macs()
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    companion = new_companion(config, task, data, device, None)
    _train(config, model, task, data, device, folder, report, clock, companion)
    score, test_score = (
        task.evaluate(model, split, data, device)[task.metric.name]
        for split in (data.validation, data.test)
    )
    result = SupernetResult(
        macs=macs,
        num_params=graph.count_params(),
        score=score,
        test_score=test_score,
        left_at_random=left,
        training_macs=training_macs(macs, epoch_images, config.pretrain.epochs),
        seconds=clock.lap()["pretrain"],
    )
    if is_first():
        parts = {} if companion is None else {_COMPANION: companion.modules}
        save_weights({"": model, **parts}, folder / SUPERNET_WEIGHTS)
    _keep(result, folder)
    Checkpoint(folder, "").remove()
    return result


def _try_judge(config: SupernetTraining, task: Task, data: TaskData, device: torch.device) -> None:
    """Let a task of the user's own measure an untrained network: better fails now than later."""
    if config.task.name in TASKS or config.pretrain.epochs == 0:
        return
    network = new_supernet(config.supernet, task, data)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    task.evaluate(network, data.validation, data, device)


def _keep(result: SupernetResult, folder: Path) -> SupernetResult:
    if not is_first():
        return result
    with whole_file(folder / SUPERNET_RESULT) as draft:
        draft.write_text(json.dumps(asdict(result)))
    return result


def read_supernet_result(folder: Path) -> SupernetResult | None:
    """Return the measures of the supernet trained in ``folder``, or ``None``.

    Raises:
        DataError: their file is damaged.
    """
    path = folder / SUPERNET_RESULT
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_bytes())
        return SupernetResult(**{**document, "left_at_random": tuple(document["left_at_random"])})
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError(
            f"{path} is damaged: it does not hold the measures of a supernet; restore it, or "
            "remove it and run again, which trains the supernet anew"
        ) from None


def load_supernet(config: SupernetConfig, task: Task, about: About, folder: Path) -> nn.Module:
    """Return the supernet that :func:`train_supernet` left in ``folder``, on the CPU."""
    model = new_supernet(config, task, about)
    state = load_file(folder / SUPERNET_WEIGHTS)
    model.load_state_dict({n: t for n, t in state.items() if not n.startswith(_COMPANION)})
    return model


def new_companion(
    config: SupernetTraining | TrialConfig,
    task: Task,
    data: TaskData,
    device: torch.device,
    supernet_folder: Path | None,
) -> Companion | None:
    """Return what is trained beside a network, if the task has that.

    Args:
        config: recipe and seed.
        task, data: whose network.
        device: where to train.
        supernet_folder: where it was trained beside a supernet; ``None``: it starts at random.
    """
    torch.manual_seed(derive_seed(config.seed, "companion"))
    companion = task.companion(config.supernet, data, config.optimizer, device)
    if companion is not None and supernet_folder is not None:
        state = load_file(supernet_folder / SUPERNET_WEIGHTS)
        own = {n.removeprefix(_COMPANION): t for n, t in state.items() if n.startswith(_COMPANION)}
        companion.modules.load_state_dict(own)
    return companion


def save_weights(parts: Mapping[str, nn.Module], path: Path) -> None:
    """Write all parameters and buffers of modules as safetensors, in one step.

    Args:
        parts: the modules, by what stands before the names of their tensors.
        path: the file.
    """
    # Cloned, since a file holds no tensor twice and some networks share theirs.
    state = {
        f"{prefix}{name}": tensor.detach().cpu().contiguous().clone()
        for prefix, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
    with whole_file(path) as draft:
        save_file(state, draft)


def _train(
    config: SupernetTraining,
    model: nn.Module,
    task: Task,
    data: TaskData,
    device: torch.device,
    folder: Path,
    report: Report,
    clock: PhaseClock,
    companion: Companion | None,
) -> None:
    optimizer = build_optimizer(model, config.optimizer, config.optimizer.learning_rate)
    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        task=task,
        data=data,
        recipe=config.optimizer,
        phase="pretrain",
        num_epochs=config.pretrain.epochs,
        lr_factor=cosine_factor,
        seed=config.seed,
        device=device,
        companion=companion,
    )
    checkpoint = Checkpoint(folder, content_key(config))
    epochs = Epochs(
        trainer=trainer, checkpoint=checkpoint, report=report, clock=clock, macs_ratio=lambda: 1.0
    )
    epochs.run(checkpoint.load())
