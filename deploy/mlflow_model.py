"""A package as an MLflow model that loads without this code: torch, or ONNX Runtime, will do."""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pytorch
import numpy as np
import torch
from mlflow import pyfunc
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import Tensor, nn

from deploy.onnx_export import (
    IMAGE,
    OnnxMissingError,
    export_onnx,
    onnx_network,
    require_onnx,
)
from deploy.package import ARCHITECTURE_FILE, WEIGHTS_FILE, PackageError
from deploy.parity import Form
from pas_trainer import task_of
from search_space import Architecture
from search_space.fakes import first_line

EXTRA_FILES_FOLDER = "extra_files"
"""Where MLflow keeps the package's files inside the model folder."""

_ONNX_FILE = "model.onnx"
_FLOAT32 = np.dtype(np.float32)


def save_mlflow_model(
    folder: str | os.PathLike[str],
    network: nn.Module,
    architecture: Architecture,
    package_folder: str | os.PathLike[str],
    images: Any,
) -> Model:
    """Write a model folder in MLflow's layout; no tracking store is touched.

    The network is stored as a ``torch.export`` program for any batch size, with normalisation
    inside; one whose steps depend on what it sees as an ONNX file for one image. The package's
    ``architecture.json`` and deploy-form weights lie beside it.

    Args:
        folder: must not exist or be empty.
        network: as it is shipped, in eval mode, on the CPU.
        architecture: of the network.
        package_folder: where the network came from.
        images: plain images; two of them, or one, become the stored input example.

    Returns:
        The model's metadata, as written to ``MLmodel``.

    Raises:
        PackageError: the network cannot be exported.
        OnnxMissingError: that needs the extra ``onnx``.
    """
    as_onnx = task_of(architecture).form == "onnx"
    try:
        if as_onnx:
            model = _save_onnx(Path(folder), network, architecture, images)
        else:
            model = _save_program(Path(folder), network, images)
    except (OSError, OnnxMissingError, PackageError, MlflowException):
        raise
    except Exception as error:  # what torch's exporters raise is of many kinds
        exporter = "torch.onnx" if as_onnx else "torch.export"
        raise PackageError(
            f"{exporter} cannot export the network ({first_line(error)})"
            + ("" if as_onnx else "; its code must not depend on the values of images")
        ) from None
    extra = Path(folder) / EXTRA_FILES_FOLDER
    extra.mkdir()
    for name in (ARCHITECTURE_FILE, WEIGHTS_FILE):
        shutil.copyfile(Path(package_folder) / name, extra / name)
    write_metadata(folder, model)
    return model


def load_form(folder: Path, model: Model) -> Form:
    """Return the exported network of a model folder, as MLflow would run it."""
    if mlflow.pytorch.FLAVOR_NAME in model.flavors:
        form: Form = mlflow.pytorch.load_model(os.fspath(folder))
        return form
    return onnx_network(folder / _ONNX_FILE)


def write_metadata(folder: str | os.PathLike[str], model: Model) -> None:
    """Write the metadata of a model folder anew."""
    model.save(str(Path(folder) / "MLmodel"))


def _save_program(folder: Path, network: nn.Module, images: Tensor) -> Model:
    # torch.export takes a batch of one for a constant, so the example has two images.
    example = images[[0, min(1, len(images) - 1)]].contiguous().numpy()
    with torch.inference_mode():
        answers = network(images[:1])
    if not isinstance(answers, Tensor):
        raise PackageError(
            f"the network answers with a {type(answers).__name__}, not one tensor (N, ...); let "
            "Task.shipped make one of it"
        )
    model = Model()
    mlflow.pytorch.save_model(
        network,
        os.fspath(folder),
        mlflow_model=model,
        signature=ModelSignature(
            inputs=Schema([TensorSpec(_FLOAT32, (-1, *images.shape[1:]))]),
            outputs=Schema([TensorSpec(_FLOAT32, (-1, *answers.shape[1:]))]),
        ),
        input_example=example,
        serialization_format="pt2",
        pip_requirements=_pinned("mlflow", "numpy", "torch"),
    )
    _forget_source_paths(folder / model.flavors[mlflow.pytorch.FLAVOR_NAME]["model_data"])
    # A pt2 program stays on the device it was exported on; unless told so, MLflow asks for the
    # GPU wherever there is one and then refuses to load the model.
    model.flavors[pyfunc.FLAVOR_NAME][pyfunc.MODEL_CONFIG] = {"device": "cpu"}
    return model


def _save_onnx(
    folder: Path, network: nn.Module, architecture: Architecture, images: list[Tensor]
) -> Model:
    require_onnx()
    import mlflow.onnx
    import onnx

    model = Model()
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / _ONNX_FILE
        export_onnx(network, architecture, path, {})
        objects = {
            "boxes": (_FLOAT32, (-1, 4)),
            "labels": (np.dtype(np.int64), (-1,)),
            "scores": (_FLOAT32, (-1,)),
            "masks": (_FLOAT32, (-1, 1, -1, -1)),
        }
        mlflow.onnx.save_model(
            onnx.load(path),
            os.fspath(folder),
            mlflow_model=model,
            signature=ModelSignature(
                inputs=Schema([TensorSpec(_FLOAT32, (architecture.in_channels, -1, -1), IMAGE)]),
                outputs=Schema([TensorSpec(*of, name) for name, of in objects.items()]),
            ),
            input_example={IMAGE: images[0].numpy()},
            pip_requirements=_pinned("mlflow", "numpy", "onnx", "onnxruntime"),
            save_as_external_data=False,
        )
    return model


def _forget_source_paths(data_folder: Path) -> None:
    """Take the stack traces, which name files of this machine, out of the exported program."""
    path = data_folder / "model.pt2"
    program = torch.export.load(path)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(program, path)


def _pinned(*packages: str) -> list[str]:
    """Exact public versions: a local part such as ``+cpu`` is on no package index."""
    versions = {name: str(import_module(name).__version__) for name in packages}
    return [f"{name}=={version.partition('+')[0]}" for name, version in versions.items()]
