"""What a task is: all that differs between classification, detection, translation and the like."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pas_trainer.data.batches import Split
from pas_trainer.data.config import DataConfig
from pas_trainer.devices import autocast
from pas_trainer.differences import relative_error
from pas_trainer.optim import OptimizerConfig
from pas_trainer.tasks.about import About, Indexed, TaskData
from pas_trainer.tasks.companion import Companion
from pas_trainer.tasks.metric import Metric
from pas_trainer.tasks.shipped import Judge, PlainNetwork
from pas_trainer.workers import own_share
from search_space import (
    Architecture,
    ChannelGraph,
    SupernetConfig,
    build_supernet,
    build_supernet_on_meta,
    trace_channels,
)
from search_space.fakes import first_line

Prepare = Callable[[Any], tuple[Any, Any]]
"""From a batch of a split to what a network reads and its targets, on the device."""

_PIXELS_AT_ONCE = 512 * 64 * 64
"""Of the images in a forward pass without gradients."""


class Task(ABC):
    """One kind of work for a network; knows its data, its loss, and what it is judged by.

    A task of your own is a subclass that a sweep file names as ``task: import:package.module:Name``
    and that reads ``data.name: custom``. It is made anew in every process, from its options alone,
    and keeps nothing of the networks it is given.

    Args:
        options: ``task.options`` of the sweep file.

    Attributes:
        metric: what networks are compared by, one of the keys that :meth:`evaluate` returns.
        datasets: names for ``data.name`` that it reads.
        has_fixed_shapes: whether every batch is two tensors of the same shapes, so that a GPU can
            replay a step.
        takes_bfloat16: whether networks are trained in mixed precision on a GPU.
        shares_batches: whether several workers may train one network together.
        ignored_hyperparameters: of :data:`search_space.TUNABLE`, which a sweep may not tune.
        scopes: submodules to search in where ``supernet.scope`` names none; empty: everywhere.
        eval_batch: images per forward pass where networks are measured; of large images fewer.
        answers: what a shipped network returns, in a word, which also names the output of an ONNX
            file; not ``images``, which names the input.
        form: what a shipped network is registered and exported as: a program of ``torch.export``
            from a batch of images to one tensor (N, ...) (``program``); or, of detectors with
            masks as torchvision has them, an ONNX file for one image of any size (``onnx``).
    """

    metric: Metric
    datasets: ClassVar[tuple[str, ...]] = ("custom",)
    has_fixed_shapes: ClassVar[bool] = False
    takes_bfloat16: ClassVar[bool] = True
    shares_batches: ClassVar[bool] = False
    ignored_hyperparameters: ClassVar[tuple[str, ...]] = ()
    scopes: ClassVar[tuple[str, ...]] = ()
    eval_batch: ClassVar[int] = 64
    answers: ClassVar[str] = "outputs"
    form: ClassVar[Literal["program", "onnx"]] = "program"

    def __init__(self, **options: Any) -> None:
        if options:
            name = sorted(options)[0]
            raise ValueError(f"unknown option {name!r} of this task; it has none")

    @abstractmethod
    def open_data(self, config: DataConfig) -> Indexed:
        """Look through a data set and split it; nothing is decoded.

        Raises:
            DataError: naming the folder or file that cannot be used.
        """

    @abstractmethod
    def load_data(self, config: DataConfig, device: torch.device) -> TaskData:
        """Return the splits, ready to be read; may keep them for the next call.

        Raises:
            DataError: naming the folder or file that cannot be used.
        """

    def check_data(self, config: DataConfig) -> None:
        """Check that this task can read a data set, as far as its settings tell.

        Raises:
            ValueError: it cannot; one sentence that names the field.
        """
        if config.name not in self.datasets:
            raise ValueError(
                f"data.name is {config.name}, which this task cannot read; it reads "
                f"{', '.join(self.datasets)}"
            )

    @abstractmethod
    def loss(self, outputs: Any, targets: Any, recipe: OptimizerConfig) -> Tensor:
        """Return the mean loss of a batch (0-d) from what :meth:`forward` returned."""

    @abstractmethod
    def judge(self, about: About, device: torch.device) -> Judge:
        """Return what measures answers against targets; :attr:`metric` is among its figures.

        It is shown both what :meth:`evaluate` sees and what shipped networks answer.

        Args:
            about: the images.
            device: where the answers are.
        """

    @abstractmethod
    def preparer(self, data: TaskData, device: torch.device) -> Prepare:
        """Return what turns a batch of a split into inputs of a network and targets, on a device.

        Both are tensors (N, ...) or lists of N items.
        """

    def images_at_once(self, about: About) -> int:
        """Return how many images of that size go into one forward pass without gradients."""
        return max(1, min(self.eval_batch, _PIXELS_AT_ONCE // about.image_size**2))

    @torch.inference_mode()
    def evaluate(
        self, network: nn.Module, split: Split, data: TaskData, device: torch.device
    ) -> dict[str, float]:
        """Return the figures of a network on a split by name, as its judge says.

        Trials go by this; promotion goes by :meth:`judge`, :meth:`shipped` and :meth:`plain`.

        Raises:
            ValueError: the judge gives no such figures, see :meth:`Metric.check_figures`.
        """
        network.eval()
        prepare, judge = self.preparer(data, device), self.judge(data, device)
        for batch in split.eval_batches(self.images_at_once(data), own_share()):
            inputs, targets = prepare(batch)
            with autocast(device, allowed=self.takes_bfloat16):
                outputs = network(inputs)
            judge.update(outputs, targets)
        return self.metric.check_figures(judge.compute())

    def shipped(self, network: nn.Module, architecture: Architecture) -> nn.Module:
        """Return a network as it is shipped: it takes the plain images of :meth:`plain`."""
        return PlainNetwork(network, architecture)

    def plain(self, batch: Any) -> tuple[Any, Any]:
        """Return what shipped networks read of a batch of a split, and targets for their judge.

        Images are float32 in [0, 1] on the CPU, (N, C, H, W), or a list of (C, h, w). Without an
        override, a batch is images in uint8 and a tensor of targets.

        Raises:
            ValueError: it is something else.
        """
        images, targets = batch
        if not (
            isinstance(images, Tensor)
            and images.dtype == torch.uint8
            and isinstance(targets, Tensor)
        ):
            raise ValueError(
                "its batches are not images in uint8 and a tensor of targets; override Task.plain"
            )
        return images.cpu().contiguous().to(torch.float32) / 255, targets.cpu()

    def error(self, expected: Any, found: Any) -> float:
        """Return how far two forms of a shipped network are apart in their answers to images.

        Relative; 0 if they agree, NaN if an answer is not a number.
        """
        return relative_error(expected, found)

    def forward(self, network: nn.Module, inputs: Any, targets: Any) -> Any:  # noqa: ARG002
        """Pass a training batch through a network, in training mode."""
        return network(inputs)

    def num_outputs(self, about: About) -> int:
        """Return what a supernet's builder gets as the number of classes."""
        return len(about.classes)

    def suit(self, network: nn.Module, about: About) -> nn.Module:  # noqa: ARG002
        """Adapt a network that was just built to the images; returns it."""
        return network

    def example(self, about: About) -> Any:
        """Return one batch of one image, of zeros, as the network in evaluation mode takes it."""
        return torch.zeros((1, about.channels, about.image_size, about.image_size))

    def trace(
        self, network: nn.Module, about: About, scopes: Sequence[str], pinned: Sequence[str]
    ) -> ChannelGraph:
        """Return the channel graph of a network; it may be on the meta device.

        Args:
            network: for these images.
            about: the images.
            scopes: submodules to search in; none: everywhere.
            pinned: what keeps its channels.

        Raises:
            ValueError: nothing can be searched, see :func:`search_space.trace_channels`.
        """
        return trace_channels(network, (self.example(about),), scope=scopes, pinned=pinned)

    def check_network(self, network: nn.Module, about: About) -> None:  # noqa: B027
        """Check what a network returns; it is on the meta device if it can be built there.

        Raises:
            ValueError: it is no network for this task; one sentence.
        """

    def companion(
        self,
        supernet: SupernetConfig,  # noqa: ARG002
        data: TaskData,  # noqa: ARG002
        recipe: OptimizerConfig,  # noqa: ARG002
        device: torch.device,  # noqa: ARG002
    ) -> Companion | None:
        """Return what is trained beside a network, such as a discriminator; ``None``: nothing.

        Its weights are drawn from torch's global generator.

        Args:
            supernet: what the network comes from.
            data: its images.
            recipe: as the network's.
            device: where to train.
        """
        return None

    def preview(
        self,
        network: nn.Module,  # noqa: ARG002
        data: TaskData,  # noqa: ARG002
        device: torch.device,  # noqa: ARG002
    ) -> NDArray[np.uint8] | None:
        """Return a picture (H, W, 3) of what a network does on some validation images."""
        return None

    def draw(
        self, network: nn.Module, image: Image.Image, architecture: Architecture
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Return a picture (H, W, 3) of what a network makes of an image, and that as figures.

        Args:
            network: in deploy form, on the CPU, in eval mode.
            image: of any size, in colours.
            architecture: of the network.
        """
        raise NotImplementedError

    @property
    def draws_answers(self) -> bool:
        """Whether :meth:`draw` draws anything."""
        return type(self).draw is not Task.draw

    @property
    def draws_previews(self) -> bool:
        """Whether :meth:`preview` draws anything."""
        return type(self).preview is not Task.preview

    def build(
        self, supernet: str, options: Mapping[str, Any], about: About, *, on_meta: bool = False
    ) -> nn.Module:
        """Build a supernet for these images, randomly initialised, or its shapes alone.

        Raises:
            ValueError: see :func:`search_space.build_supernet`.
        """
        build = build_supernet_on_meta if on_meta else build_supernet
        network = build(supernet, self.num_outputs(about), about.channels, **options)
        return self.suit(network, about)


def check_images_pass(network: nn.Module, about: About) -> Any:
    """Return what a network makes of two images; on the meta device nothing is computed.

    Raises:
        ValueError: they do not pass through.
    """
    shape = (about.channels, about.image_size, about.image_size)
    device = next(network.parameters()).device
    try:
        with torch.no_grad():
            return network.eval()(torch.empty((2, *shape), device=device))
    except Exception as error:  # a network's own code can raise anything
        reason = first_line(error)
        raise ValueError(
            f"images of shape {shape} do not pass through {type(network).__name__} ({reason}); "
            "set data.image_size to what it needs"
        ) from error
