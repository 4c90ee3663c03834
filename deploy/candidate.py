"""A candidate for promotion: a package as it is stored, in all its forms, and their measures."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow.pytorch
import numpy as np
import torch
from mlflow.models import Model
from torch import Tensor, nn

from deploy.gates import PARITY_TOLERANCE
from deploy.latency import measure_latency_ms
from deploy.mlflow_model import save_mlflow_model
from deploy.package import DeployedClassifier, content_hash, load_package
from deploy.parity import check_parity, compare_logits, logit_error
from search_space import Architecture

EVAL_CHUNK = 64
"""Images per forward pass."""
_ODD_BATCH = 129


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A package, read from its files and exported.

    Attributes:
        folder: the package's.
        content_hash: of it, see :func:`deploy.content_hash`.
        architecture: what the networks were rebuilt from.
        classifier: deploy form. Like the other forms it takes (N, C, H, W) float32 in [0, 1] and
            is in eval mode, on the CPU.
        training_classifier: with training branches.
        exported: the ``torch.export`` program, as plain MLflow loads it.
        model_folder: in MLflow's layout, with the exported program.
        model: its metadata.
    """

    folder: Path
    content_hash: str
    architecture: Architecture
    classifier: DeployedClassifier
    training_classifier: DeployedClassifier
    exported: nn.Module
    model_folder: Path
    model: Model


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurements:
    """What the gates go by; see :mod:`deploy.gates` for the errors and faults.

    Attributes:
        num_images: images that the accuracies are measured on.
        accuracy: of the deploy form, in [0, 1].
        exported_accuracy: of the exported program.
        training_error, exported_error: relative logit errors of the forms.
        batch_error: the same between batch sizes of the exported program.
        faults: what the exported program does with input that it should not take.
        takes_infinity: an infinite pixel gave finite logits.
        latency_ms: median time of one image on one CPU thread.
    """

    num_images: int
    accuracy: float
    exported_accuracy: float
    training_error: float
    exported_error: float
    batch_error: float
    faults: tuple[str, ...]
    takes_infinity: bool
    latency_ms: float


@contextmanager
def open_candidate(
    folder: str | os.PathLike[str], images: Tensor, *, allow_import: bool = False
) -> Iterator[Candidate]:
    """Read and export a package; what that writes lies in a temporary folder until the end.

    Args:
        folder: package with training weights.
        images: held-out images (N, C, H, W), float32 in [0, 1]; two become the input example.
        allow_import: see :func:`deploy.load_package`.

    Raises:
        PackageError: the package is unusable or has no training weights.
        ValueError: the images do not suit the network.
    """
    architecture, network = load_package(folder, allow_import=allow_import)
    _check_images(images, architecture)
    _, training_network = load_package(folder, deploy=False, allow_import=allow_import)
    classifier = DeployedClassifier(architecture, network).eval()
    with tempfile.TemporaryDirectory() as temporary:
        model_folder = Path(temporary) / "model"
        model = save_mlflow_model(model_folder, classifier, folder, images)
        yield Candidate(
            folder=Path(folder),
            content_hash=content_hash(folder),
            architecture=architecture,
            classifier=classifier,
            training_classifier=DeployedClassifier(architecture, training_network).eval(),
            exported=mlflow.pytorch.load_model(os.fspath(model_folder)),
            model_folder=model_folder,
            model=model,
        )


def check_forms(candidate: Candidate, images: Tensor) -> float:
    """Return the error of the deploy form, once all three forms agree on ``images``.

    Raises:
        ParityError: two forms disagree, see :func:`deploy.check_parity`.
    """
    error = check_parity(candidate.training_classifier, candidate.classifier, images)
    with torch.inference_mode():
        for batch in (images[:1], images[:EVAL_CHUNK]):
            expected, found = candidate.classifier(batch), candidate.exported(batch)
            compare_logits(expected, found, PARITY_TOLERANCE)
    return error


def measure_accuracy(classifier: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the share of images that a classifier knows, in [0, 1].

    Args:
        classifier: takes (N, C, H, W) float32 in [0, 1].
        batches: images uint8 (N, C, H, W) and labels (N,), at least one.
    """
    correct = total = 0
    with torch.inference_mode():
        for images, labels in batches:
            correct += _num_correct(classifier(as_input(images)), labels)
            total += len(labels)
    return correct / total


def measure_candidate(
    candidate: Candidate, batches: Iterable[tuple[Tensor, Tensor]], images: Tensor
) -> Measurements:
    """Measure all that the gates ask for, the accuracy on every image of ``batches``.

    Args:
        candidate: in all its forms.
        batches: as :func:`measure_accuracy` takes them.
        images: (N, C, H, W) float32 in [0, 1], for what does not need all of them.
    """
    correct, exported_correct, total, exported_error = 0, 0, 0, 0.0
    with torch.inference_mode():
        for pixels, labels in batches:
            inputs = as_input(pixels)
            expected, found = candidate.classifier(inputs), candidate.exported(inputs)
            correct += _num_correct(expected, labels)
            exported_correct += _num_correct(found, labels)
            exported_error = _worse(exported_error, logit_error(expected, found))
            total += len(labels)
        expected = candidate.training_classifier(images)
        training_error = logit_error(expected, candidate.classifier(images))
        batch_error = _batch_error(candidate, images)
        faults, takes_infinity = _faults(candidate, images)
    architecture = candidate.architecture
    shape = (architecture.in_channels, architecture.image_size, architecture.image_size)
    return Measurements(
        num_images=total,
        accuracy=correct / total,
        exported_accuracy=exported_correct / total,
        training_error=training_error,
        exported_error=exported_error,
        batch_error=batch_error,
        faults=faults,
        takes_infinity=takes_infinity,
        latency_ms=measure_latency_ms(candidate.classifier.network, shape),
    )


def as_input(images: Tensor) -> Tensor:
    """Return uint8 images as a classifier takes them: float32 in [0, 1], on the CPU."""
    return images.cpu().contiguous().to(torch.float32) / 255


def _num_correct(logits: Tensor, labels: Tensor) -> int:
    return int((logits.argmax(dim=1) == labels.cpu()).sum())


def _worse(one: float, other: float) -> float:
    """Return the larger error; one that is not a number is the worst."""
    return one if one != one or one > other else other  # noqa: PLR0124


def _batch_error(candidate: Candidate, images: Tensor) -> float:
    """Error of the exported program in batches of 1, 2 and a large odd number of images."""
    many = _repeated(images, _ODD_BATCH)
    expected = torch.cat([candidate.classifier(chunk) for chunk in torch.split(many, EVAL_CHUNK)])
    error = 0.0
    for size in (1, 2, _ODD_BATCH):
        error = _worse(error, logit_error(expected[:size], candidate.exported(many[:size])))
    return error


def _faults(candidate: Candidate, images: Tensor) -> tuple[tuple[str, ...], bool]:
    """Return what goes wrong with input that is none, and whether infinity is classified."""
    faults = []
    three = _repeated(images, 3)
    clean = candidate.exported(three)
    logits = candidate.exported(_spoiled(three, float("nan")))
    if not bool(logits[1].isnan().all()):
        faults.append("a NaN pixel does not reach every logit of its image")
    if not logit_error(clean[[0, 2]], logits[[0, 2]]) <= PARITY_TOLERANCE:
        faults.append("a NaN pixel changes other images of its batch")
    wrong = {"height": three[:, :, 1:], "number of channels": torch.cat([three, three], dim=1)}
    for what, odd in wrong.items():
        if _is_taken(candidate.exported, odd):
            faults.append(f"images of another {what} are classified")
    assert candidate.model.signature is not None
    (taken,) = candidate.model.signature.inputs.inputs
    if (taken.type, taken.shape) != (np.dtype(np.float32), (-1, *images.shape[1:])):
        faults.append(f"the signature takes {taken.type} {taken.shape}")
    infinite = candidate.exported(_spoiled(three, float("inf")))[1]
    return tuple(faults), bool(infinite.isfinite().all())


def _spoiled(images: Tensor, value: float) -> Tensor:
    """Return images of which the second has a pixel of that value, in the corner.

    Every network reads the corner, also one that skips pixels (1x1 with a stride).
    """
    spoiled = images.clone()
    spoiled[1, :, 0, 0] = value
    return spoiled


def _is_taken(network: nn.Module, images: Tensor) -> bool:
    try:
        network(images)
    except (RuntimeError, ValueError, AssertionError):  # how torch.export's guards refuse
        return False
    return True


def _repeated(images: Tensor, count: int) -> Tensor:
    """Return ``count`` images, over and over if there are fewer."""
    return images[torch.arange(count) % len(images)]


def _check_images(images: Tensor, architecture: Architecture) -> None:
    shape = (architecture.in_channels, architecture.image_size, architecture.image_size)
    if images.ndim != 4 or tuple(images.shape[1:]) != shape or len(images) == 0:
        raise ValueError(f"images have shape {tuple(images.shape)}, expected (N, *{shape})")
    if images.dtype != torch.float32 or images.device.type != "cpu":
        raise ValueError(f"images are {images.dtype} on {images.device}, expected float32 on cpu")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("images must lie in [0, 1]")
