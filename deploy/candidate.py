"""A candidate for promotion: a package as it is stored, in all its forms."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mlflow.models import Model
from torch import Tensor, nn

from deploy.mlflow_model import load_form, save_mlflow_model
from deploy.package import content_hash, deployed_network, load_package
from deploy.parity import Form
from pas_trainer import Task, task_of
from search_space import Architecture


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A package, read from its files and exported.

    Attributes:
        folder: the package's.
        content_hash: of it, see :func:`deploy.content_hash`.
        architecture: what the networks were rebuilt from.
        task: what they are for.
        network: deploy form, as it is shipped. Like the other forms it takes plain images and is
            in eval mode, on the CPU.
        training_network: with training branches.
        exported: the stored program or ONNX file, as plain MLflow runs it.
        model_folder: in MLflow's layout, with the exported form.
        model: its metadata.
    """

    folder: Path
    content_hash: str
    architecture: Architecture
    task: Task
    network: nn.Module
    training_network: nn.Module
    exported: Form
    model_folder: Path
    model: Model


@contextmanager
def open_candidate(
    folder: str | os.PathLike[str], images: Any, *, allow_import: bool = False
) -> Iterator[Candidate]:
    """Read and export a package; what that writes lies in a temporary folder until the end.

    Args:
        folder: package with training weights.
        images: held-out plain images, see :meth:`pas_trainer.Task.plain`; two become the input
            example.
        allow_import: see :func:`deploy.load_package`.

    Raises:
        PackageError: the package is unusable, has no training weights or cannot be exported.
        OnnxMissingError: what exports it is not installed.
        ValueError: the images do not suit the network.
    """
    architecture, network = load_package(folder, allow_import=allow_import)
    _check_images(images, architecture)
    _, training_network = load_package(folder, deploy=False, allow_import=allow_import)
    shipped = deployed_network(architecture, network)
    with tempfile.TemporaryDirectory() as temporary:
        model_folder = Path(temporary) / "model"
        model = save_mlflow_model(model_folder, shipped, architecture, folder, images)
        yield Candidate(
            folder=Path(folder),
            content_hash=content_hash(folder),
            architecture=architecture,
            task=task_of(architecture),
            network=shipped,
            training_network=deployed_network(architecture, training_network),
            exported=load_form(model_folder, model),
            model_folder=model_folder,
            model=model,
        )


def _check_images(images: Any, architecture: Architecture) -> None:
    if len(images) == 0:
        raise ValueError("there are no images to check the network with")
    size, channels = architecture.image_size, architecture.in_channels
    if isinstance(images, Tensor):
        shape = (channels, size, size)
        if images.ndim != 4 or tuple(images.shape[1:]) != shape:
            raise ValueError(f"images have shape {tuple(images.shape)}, expected (N, *{shape})")
    for image in images:
        if image.ndim != 3 or len(image) != channels:
            raise ValueError(
                f"an image has shape {tuple(image.shape)}, expected ({channels}, h, w)"
            )
        if image.dtype != torch.float32 or image.device.type != "cpu":
            raise ValueError(f"images are {image.dtype} on {image.device}, expected float32 on cpu")
        if not bool(((image >= 0) & (image <= 1)).all()):
            raise ValueError("images must lie in [0, 1]")
