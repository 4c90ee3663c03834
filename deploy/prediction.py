"""Image files classified by a network, prepared exactly as it was evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deploy.export_folder import ONNX_FILE
from deploy.manifest import ManifestError, verify_folder
from deploy.onnx_export import onnx_network
from deploy.package import PackageError, deployed_network, load_architecture, load_package
from deploy.parity import Form
from pas_trainer import IMAGE_SUFFIXES, DataError, Resize, images_below, prepare_images
from pas_trainer.data import IMAGENET_MEAN, IMAGENET_STD
from search_space import Architecture


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One class that an image may belong to.

    Attributes:
        path: of the image.
        label: name of the class.
        probability: softmax of the logits.
    """

    path: Path
    label: str
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Classifier:
    """A network ready to classify files.

    Attributes:
        architecture: image size, channels and class names.
        resize: how images are prepared.
        form: the network.
    """

    architecture: Architecture
    resize: Resize
    form: Form

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """Return the softmax of the logits, float64 (N, classes), of uint8 images (N, C, H, W)."""
        return torch.softmax(self.form(images.float() / 255).double(), dim=1)

    def classify(
        self,
        paths: Sequence[Path],
        *,
        top: int = 1,
        batch_size: int = 64,
        unreadable: Callable[[DataError], None],
    ) -> Iterator[Prediction]:
        """Yield the ``top`` likeliest classes of each image, best first; images in order.

        Args:
            paths: image files.
            top: how many classes, at most as many as there are.
            batch_size: images per forward pass.
            unreadable: told of each image that cannot be decoded; the others go on.
        """
        size, channels = self.architecture.image_size, self.architecture.in_channels
        classes, top = self.architecture.classes, min(top, len(self.architecture.classes))
        for start in range(0, len(paths), batch_size):
            read, pixels = [], []
            for path in paths[start : start + batch_size]:
                try:
                    pixels.append(prepare_images([path], size, channels, self.resize))
                    read.append(path)
                except DataError as error:
                    unreadable(error)
            if not read:
                continue
            found = self.probabilities(torch.cat(pixels)).topk(top)
            for path, values, indices in zip(read, *found, strict=True):
                for value, index in zip(values.tolist(), indices.tolist(), strict=True):
                    yield Prediction(path=path, label=classes[index], probability=value)


def classifier_of_folder(
    folder: Path, engine: str = "torch", *, allow_import: bool = False
) -> Classifier:
    """Return the network of an exported folder, whose manifest is verified first.

    With torch it is rebuilt from ``weights.safetensors``: a pt2 program may be made to run code.

    Args:
        folder: written by an export or a fetch.
        engine: ``torch`` or ``onnx``.
        allow_import: see :func:`deploy.load_package`.

    Raises:
        ManifestError: the files are not those of the manifest.
        PackageError: the package is unusable, or there is no ONNX file.
        OnnxMissingError: ONNX Runtime is not installed.
    """
    manifest = verify_folder(folder)
    if engine == "onnx" and ONNX_FILE not in manifest.names:
        raise PackageError(
            f"{folder} holds no {ONNX_FILE}; take --engine torch, or export it again"
        )
    architecture = load_architecture(folder)
    _check_classifies(architecture, folder)
    if manifest.resize == "longer" or manifest.resize == "stretched":  # noqa: PLR1714 - for mypy
        raise ManifestError(
            f"the manifest of {folder} prepares images as for another task, but its network "
            "classifies; do not use it"
        )
    if engine == "torch":
        return classifier_of_package(folder, manifest.resize, allow_import=allow_import)
    form = onnx_network(folder / ONNX_FILE)
    return Classifier(architecture=architecture, resize=manifest.resize, form=form)


def classifier_of_package(
    folder: Path, resize: Resize | None = None, *, allow_import: bool = False
) -> Classifier:
    """Return the network of a package, rebuilt from its weights.

    Args:
        folder: of the package.
        resize: how images are prepared; ``None``: as its architecture lets one conclude.
        allow_import: see :func:`deploy.load_package`.

    Raises:
        PackageError: the package is unusable.
    """
    _check_classifies(load_architecture(folder), folder)
    architecture, network = load_package(folder, allow_import=allow_import)
    form = deployed_network(architecture, network)
    return Classifier(
        architecture=architecture, resize=resize or resize_of_architecture(architecture), form=form
    )


def _check_classifies(architecture: Architecture, folder: Path) -> None:
    if architecture.task != "classification":
        raise PackageError(
            f"{folder} holds a network for {architecture.task}, which does not classify images"
        )


def resize_of_architecture(architecture: Architecture) -> Resize:
    """Conclude how images are prepared: a network trained from disk is normalised by ImageNet's."""
    from_disk = (tuple(architecture.mean), tuple(architecture.std)) == (IMAGENET_MEAN, IMAGENET_STD)
    return "centre" if from_disk else "whole"


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Return files as they are named, and the images below folders in the order of their names.

    Raises:
        DataError: a path does not exist, or a folder has no images.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            below = images_below(path)
            if not below:
                kinds = ", ".join(sorted(IMAGE_SUFFIXES))
                raise DataError(f"folder {path} has no images ({kinds})")
            found += below
        elif path.exists():
            found.append(path)
        else:
            raise DataError(f"{path} does not exist; name image files or folders")
    return list(dict.fromkeys(found))
