"""Images of the sweep that a registered model comes from: to check its exported forms with.

Of a classifier's only those that are needed are decoded, spread evenly over the classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deploy.export_folder import BATCH_SIZES, ExportImages
from deploy.manifest import Preparation
from deploy.measuring import sample_of
from deploy.prediction import resize_of_architecture
from deploy.registered import RegisteredVersion, download_example
from orchestrator.errors import UserError
from orchestrator.home import Home, read_sweep
from orchestrator.loading import parse_recorded
from orchestrator.staged_data import Tell, bring_data
from pas_trainer import (
    DataConfig,
    DataError,
    Indexed,
    Resize,
    TaskData,
    open_sources,
    prepare_images,
    task_of,
)
from pas_trainer.data.sources import Source, Sources
from search_space import Architecture

CALIBRATION_IMAGES = 512
"""Training images that int8 is calibrated with, at most."""
VALIDATION_IMAGES = 2000
"""Validation images that accuracies of float and int8 are measured on, at most."""


def export_images(
    home: Home,
    registered: RegisteredVersion,
    architecture: Architecture,
    scratch: Path,
    *,
    int8: bool,
    tell: Tell = lambda _: None,
) -> ExportImages:
    """Return images of the sweep, or the stored input example where they are not at hand.

    Args:
        home: whose ``sweep.json`` names the data.
        registered: the version; its tags name the sweep.
        architecture: of its network.
        scratch: folder for what is downloaded.
        int8: whether images to calibrate and measure with are needed.
        tell: called with lines on progress.

    Raises:
        UserError: int8 without the sweep's images.
        PackageError: neither they nor the example can be read.
    """
    if int8 and architecture.task != "classification":
        raise UserError(
            f"--int8 is for classification; {registered.model} is for {architecture.task}"
        )
    try:
        config = _data_config(home, registered, tell)
        if architecture.task != "classification":
            return _images_of_task(config, architecture)
        sources = open_sources(config)
    except (DataError, UserError) as error:
        if int8:
            raise UserError(
                f"--int8 needs training images of the sweep to calibrate with: {error}"
            ) from None
        return ExportImages(
            parity=download_example(registered, scratch),
            words=f"the input example stored with the model, since {error}",
            data="not recorded here",
            resize=_resize_concluded(architecture),
        )
    resize = resize_of_architecture(architecture)
    validation = _some(sources.validation, VALIDATION_IMAGES if int8 else max(BATCH_SIZES))
    images = _prepared(validation, sources, resize)
    calibration = _some(sources.train, CALIBRATION_IMAGES)
    return ExportImages(
        parity=images[:: math.ceil(len(images) / max(BATCH_SIZES))].float() / 255,
        words="validation images",
        data=_words(config, sources),
        resize=resize,
        calibration=_prepared(calibration, sources, resize) if int8 else None,
        validation=(images, torch.as_tensor(validation.labels)) if int8 else None,
    )


def _images_of_task(config: DataConfig, architecture: Architecture) -> ExportImages:
    """Return validation images of a task whose answers are no classes."""
    task = task_of(architecture)
    data = task.load_data(config, torch.device("cpu"))
    return ExportImages(
        parity=sample_of(task, data),
        words="validation images",
        data=_words(config, data),
        resize=_resize_concluded(architecture),
    )


def _resize_concluded(architecture: Architecture) -> Preparation:
    """Conclude how images are prepared from what the network is for."""
    if architecture.task == "classification":
        return resize_of_architecture(architecture)
    if architecture.task == "image_translation":
        return "stretched"
    return "longer" if task_of(architecture).form == "onnx" else "whole"


def _data_config(home: Home, registered: RegisteredVersion, tell: Tell) -> DataConfig:
    sweep_id = registered.tags.get("pas.sweep_id", "")
    path = home.sweep(sweep_id) / "sweep.json"
    if Path(sweep_id).name != sweep_id or not sweep_id or not path.is_file():
        raise UserError(f"the files of sweep {sweep_id!r} are not in the home folder (PAS_HOME)")
    recorded: Mapping[str, Any] = read_sweep(path)
    config = parse_recorded(recorded["config"], str(path)).data
    bring_data(config, recorded["plan"].get("data_version", ""), tell)
    return config


def _some(source: Source, count: int) -> Source:
    """Return at most ``count`` images, evenly spread."""
    return source.subset(range(0, len(source), math.ceil(len(source) / count)))


def _prepared(source: Source, sources: Sources, resize: Resize) -> Tensor:
    return prepare_images(source.images, sources.image_size, sources.channels, resize)


def _words(config: DataConfig, sources: Indexed | TaskData) -> str:
    place = "" if config.root is None else f" in {Path(config.root).name}"
    return (
        f"{config.name}{place}, {len(sources.train)} training, {len(sources.validation)} "
        f"validation and {len(sources.test)} test images"
    )
