"""A package as an MLflow model that needs nothing but torch, numpy and mlflow to run."""

from __future__ import annotations

import os
from pathlib import Path

import mlflow
import mlflow.pytorch
import numpy as np
import torch
from mlflow import pyfunc
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import Tensor

from deploy.package import ARCHITECTURE_FILE, WEIGHTS_FILE, DeployedClassifier, PackageError

EXTRA_FILES_FOLDER = "extra_files"
"""Where MLflow keeps the package's files inside the model folder."""


def save_mlflow_model(
    folder: str | os.PathLike[str],
    classifier: DeployedClassifier,
    package_folder: str | os.PathLike[str],
    images: Tensor,
) -> Model:
    """Write a model folder in MLflow's layout; no tracking store is touched.

    The network is stored as a ``torch.export`` program for any batch size, with normalisation
    inside; the package's ``architecture.json`` and deploy-form weights lie beside it.

    Args:
        folder: must not exist or be empty.
        classifier: in eval mode, on the CPU.
        package_folder: where the classifier came from.
        images: (N, C, H, W) float32 in [0, 1]; two of them become the stored input example.

    Returns:
        The model's metadata, as written to ``MLmodel``.

    Raises:
        PackageError: the network cannot be exported.
    """
    # torch.export takes a batch of one for a constant, so the example has two images.
    example = images[[0, min(1, len(images) - 1)]].contiguous().numpy()
    model = Model()
    source = Path(package_folder)
    try:
        mlflow.pytorch.save_model(
            classifier,
            os.fspath(folder),
            mlflow_model=model,
            signature=_signature(classifier, images),
            input_example=example,
            serialization_format="pt2",
            pip_requirements=_pinned_requirements(),
            extra_files=[str(source / ARCHITECTURE_FILE), str(source / WEIGHTS_FILE)],
        )
    except (OSError, MlflowException):
        raise
    except Exception as error:  # what torch.export raises is of many kinds
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PackageError(
            f"torch.export cannot export the network ({first}); its code must not depend on the "
            "values of images"
        ) from None
    _forget_source_paths(Path(folder) / model.flavors[mlflow.pytorch.FLAVOR_NAME]["model_data"])
    # A pt2 program stays on the device it was exported on; unless told so, MLflow asks for the
    # GPU wherever there is one and then refuses to load the model.
    model.flavors[pyfunc.FLAVOR_NAME][pyfunc.MODEL_CONFIG] = {"device": "cpu"}
    write_metadata(folder, model)
    return model


def write_metadata(folder: str | os.PathLike[str], model: Model) -> None:
    """Write the metadata of a model folder anew."""
    model.save(str(Path(folder) / "MLmodel"))


def _forget_source_paths(data_folder: Path) -> None:
    """Take the stack traces, which name files of this machine, out of the exported program."""
    path = data_folder / "model.pt2"
    program = torch.export.load(path)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(program, path)


def _signature(classifier: DeployedClassifier, images: Tensor) -> ModelSignature:
    with torch.inference_mode():
        num_classes = classifier(images[:1]).shape[1]
    float32 = np.dtype(np.float32)
    return ModelSignature(
        inputs=Schema([TensorSpec(float32, (-1, *images.shape[1:]))]),
        outputs=Schema([TensorSpec(float32, (-1, num_classes))]),
    )


def _pinned_requirements() -> list[str]:
    """Exact public versions: a local part such as ``+cpu`` is on no package index."""
    versions = {
        "mlflow": mlflow.__version__,
        "numpy": np.__version__,
        "torch": str(torch.__version__),
    }
    return [f"{name}=={version.partition('+')[0]}" for name, version in versions.items()]
