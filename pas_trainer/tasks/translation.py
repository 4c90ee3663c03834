"""Image translation: generators of pix2pix and CycleGAN, trained against critics."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pas_trainer.data import (
    DATASETS,
    DataConfig,
    PairSources,
    TranslationData,
    load_pairs,
    open_pairs,
)
from pas_trainer.data.batches import Split
from pas_trainer.data.pictures import stretched
from pas_trainer.devices import autocast
from pas_trainer.errors import DataError
from pas_trainer.optim import OptimizerConfig
from pas_trainer.previews import translation_picture
from pas_trainer.tasks.about import About, TaskData
from pas_trainer.tasks.adversaries import LossWeights, PairedAdversary, UnpairedAdversary
from pas_trainer.tasks.companion import Companion
from pas_trainer.tasks.features import check_features, feature_network
from pas_trainer.tasks.metric import Metric
from pas_trainer.tasks.normalizer import Normalizer
from pas_trainer.tasks.shipped import Judge, PlainGenerator
from pas_trainer.tasks.task import Prepare, Task, check_images_pass
from pas_trainer.translation_metrics import ImageQuality, KernelDistance, PatchDistance
from search_space import Architecture, SupernetConfig

METRICS = {
    "psnr_db": Metric("psnr_db"),
    "ssim": Metric("ssim"),
    "swd": Metric("swd", higher_is_better=False),
    "kid": Metric("kid", higher_is_better=False),
}
"""What translations can be compared by, see :mod:`pas_trainer.translation_metrics`."""

SMALLEST = 24
"""Pixels; of less, nothing is left behind the layers of a critic."""

_OF_PAIRS = ("psnr_db", "ssim")
_WEIGHTS = tuple(field.name for field in dataclasses.fields(LossWeights))
_SHOWN = 4


class ImageTranslation(Task):
    """From an image to one of another domain, of the same size, with values in [-1, 1].

    Args:
        metric: one of :data:`METRICS`; ``psnr_db`` and ``ssim`` want pairs.
        critic_width: channels of the critics' first layer.
        features: ``import:package.module:function`` that returns a network; images (N, C, H, W) in
            [0, 1] become features (N, ...), of which ``kid`` is the distance.
        weights: see :class:`pas_trainer.tasks.adversaries.LossWeights`.

    Raises:
        ValueError: an option is unknown or out of range.
    """

    datasets = DATASETS["image_translation"]
    ignored_hyperparameters = ("label_smoothing",)
    eval_batch = 32
    answers = "pictures"

    def __init__(
        self,
        metric: str = "psnr_db",
        critic_width: int = 64,
        features: str | None = None,
        **weights: float,
    ) -> None:
        if metric not in METRICS:
            raise ValueError(f"option metric is {metric!r}; known: {', '.join(METRICS)}")
        if metric == "kid" and features is None:
            raise ValueError(
                "option features is missing, which metric kid needs: import:package.module:function"
            )
        if features is not None and not (
            isinstance(features, str) and re.fullmatch(r"import:[^:]+:[^:]+", features)
        ):
            raise ValueError(
                f"option features is {features!r}; write import:package.module:function"
            )
        if type(critic_width) is not int or not 1 <= critic_width <= 1024:
            raise ValueError(
                f"option critic_width is {critic_width!r}; it must be a whole number in 1..1024"
            )
        for name in weights:
            if name not in _WEIGHTS:
                known = ("metric", "critic_width", "features", *_WEIGHTS)
                raise ValueError(f"unknown option {name!r}; known: {', '.join(known)}")
        self.metric = METRICS[metric]
        self._weights, self._critic_width = LossWeights(**weights), critic_width
        self._features = features

    def check_data(self, config: DataConfig) -> None:
        """Check the data set, and that the metric does not want pairs where there are none."""
        super().check_data(config)
        if config.image_size is not None and config.image_size < SMALLEST:
            raise ValueError(
                f"data.image_size is {config.image_size}, too small for the critics of this task; "
                f"set it to at least {SMALLEST}"
            )
        if config.name == "unpaired" and self.metric.name in _OF_PAIRS:
            others = [name for name in METRICS if name not in _OF_PAIRS]
            raise ValueError(
                f"task.options.metric is {self.metric.name}, which compares pairs, but data.name "
                f"is unpaired; set it to {' or '.join(others)}"
            )

    def open_data(self, config: DataConfig) -> PairSources:
        """See :func:`pas_trainer.data.open_pairs`; of a split for ``kid`` there must be two."""
        sources = open_pairs(config)
        for name in ("validation", "test") if self._features is not None else ():
            files = getattr(sources, name)
            if min(len(files.inputs), len(files.targets)) < 2:
                raise DataError(
                    f"the {name} split of {config.root} has one image, but kid needs two of either "
                    "domain; hold out more"
                )
        return sources

    def load_data(self, config: DataConfig, device: torch.device) -> TranslationData:
        """See :func:`pas_trainer.data.load_pairs`."""
        return load_pairs(config, device)

    def preparer(self, data: TaskData, device: torch.device) -> Prepare:
        """Return what gives both images of a pair, float32 (N, C, H, W) in [-1, 1]."""
        normalize = Normalizer(data, device)
        return lambda batch: (normalize(batch[0]), normalize(batch[1]))

    def num_outputs(self, about: About) -> int:
        """Return the channels of an image."""
        return about.channels

    def loss(self, outputs: Any, targets: Any, recipe: OptimizerConfig) -> Tensor:
        """Not used: a companion knows the loss."""
        raise NotImplementedError("a generator is trained beside its companion")

    def companion(
        self,
        supernet: SupernetConfig,
        data: TaskData,
        recipe: OptimizerConfig,
        device: torch.device,
    ) -> Companion:
        """Return the critics, for unpaired images also a generator the other way."""
        common = (recipe, self._weights, data.channels, self._critic_width, device)
        if getattr(data, "paired", True):
            return PairedAdversary(*common)
        return UnpairedAdversary(*common, self.build(supernet.name, supernet.options, data))

    @torch.inference_mode()
    def evaluate(
        self, network: nn.Module, split: Split, data: TaskData, device: torch.device
    ) -> dict[str, float]:
        """Return ``psnr_db`` and ``ssim`` of pairs, else ``swd``; ``kid`` if there are features."""
        judge = self.judge(data, device)
        for _, made, targets in self._made(network, split, data, device, self.images_at_once(data)):
            judge.update(made, targets)
        return self.metric.check_figures(judge.compute())

    def judge(self, about: About, device: torch.device) -> Judge:
        """Return what compares images in [0, 1] with their targets, or with those of the domain."""
        judges: list[Judge] = [
            ImageQuality() if getattr(about, "paired", True) else PatchDistance()
        ]
        if self._features is not None:
            judges.append(KernelDistance(self._feature_network.to(device).eval()))
        return _Together(judges)

    @cached_property
    def _feature_network(self) -> nn.Module:
        """What ``features`` names, made once."""
        assert self._features is not None
        return feature_network(self._features)

    def shipped(self, network: nn.Module, architecture: Architecture) -> nn.Module:
        """Return a generator from images in [0, 1] to such images."""
        return PlainGenerator(network, architecture)

    def plain(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return both images of a pair, float32 (N, C, H, W) in [0, 1]."""
        inputs, targets = (each.cpu().contiguous().float() / 255 for each in batch)
        return inputs, targets

    def check_network(self, network: nn.Module, about: About) -> None:
        """Check that an image comes out as one of the same size, and that there is a judge."""
        self.judge(about, torch.device("cpu"))
        if self._features is not None:
            check_features(self._features, self._feature_network, about)
        outputs = check_images_pass(network, about)
        wanted = (2, about.channels, about.image_size, about.image_size)
        if not isinstance(outputs, Tensor) or tuple(outputs.shape) != wanted:
            told = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ValueError(
                f"{type(network).__name__} returns {told} for 2 images; a generator must return "
                f"images of shape {wanted}"
            )

    @torch.inference_mode()
    def preview(
        self, network: nn.Module, data: TaskData, device: torch.device
    ) -> NDArray[np.uint8]:
        """Return some validation images, what becomes of them, and what they should be."""
        first = next(iter(self._made(network, data.validation, data, device, _SHOWN)))
        titles = ("input", "output", "target" if getattr(data, "paired", True) else "other domain")
        return translation_picture(*(images.cpu() for images in first), titles=titles)

    def draw(
        self, network: nn.Module, image: Image.Image, architecture: Architecture
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Return what becomes of an image, (S, S, 3), S being the size it was trained on.

        It is stretched to that, as it is for training and evaluation.
        """
        size = architecture.image_size
        pixels = torch.tensor(stretched(image, size)).permute(2, 0, 1)[None]
        made = self.shipped(network, architecture)(pixels.float() / 255)[0]
        drawn = (made * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        return drawn, {"image_size": size}

    def _made(
        self,
        network: nn.Module,
        split: Split,
        data: TaskData,
        device: torch.device,
        batch_size: int,
    ) -> Any:
        """Yield inputs, outputs and targets as images in [0, 1]."""
        network.eval()
        prepare = self.preparer(data, device)
        mean, std = (torch.tensor(v, device=device).view(-1, 1, 1) for v in (data.mean, data.std))
        for batch in split.eval_batches(batch_size):
            inputs, targets = prepare(batch)
            with autocast(device):
                made = network(inputs)
            yield tuple((t.float() * std + mean).clamp(0, 1) for t in (inputs, made, targets))


class _Together:
    """Several judges of the same answers."""

    def __init__(self, judges: Sequence[Judge]) -> None:
        self._judges = judges

    def update(self, answers: Tensor, targets: Tensor) -> None:
        for judge in self._judges:
            judge.update(answers, targets)

    def compute(self) -> dict[str, float]:
        return {name: value for judge in self._judges for name, value in judge.compute().items()}
