"""The network that is served: loaded from an exported folder, and followed as it changes.

Which folder that is, a small file says (:class:`Pointer`). It is replaced in one step when a new
version is to be served; whoever watches it loads that version beside the old one, then swaps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from deploy.manifest import Manifest, read_manifest
from deploy.prediction import Classifier, classifier_of_folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Pointer:
    """What to serve.

    Attributes:
        folder: of the export.
        engine: ``torch`` or ``onnx``.
        accuracy: on the sweep's validation images, in [0, 1]; ``None`` if it is not known.
        allow_import: see :func:`deploy.load_package`.
    """

    folder: str
    engine: str
    accuracy: float | None = None
    allow_import: bool = False

    def to_json(self) -> str:
        """Return it as the file has it."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ServedModel:
    """A version, loaded.

    Attributes:
        manifest: of its folder; says name, version and how images are prepared.
        classifier: its network.
        pointer: what named it.
    """

    manifest: Manifest
    classifier: Classifier
    pointer: Pointer


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Images of one request, prepared for the model that was served as it came."""

    model: ServedModel
    images: Tensor


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job: float64 (N, classes), and how many images were classified with it."""

    probabilities: Tensor
    batch_images: int


def classify_together(jobs: Sequence[Job]) -> list[Outcome]:
    """Classify the images of several requests in one batch; in one per model, just after a swap.

    Returns:
        An outcome for each job, in order. Of those of one batch, the first alone has its size.
    """
    found: dict[int, Outcome] = {}
    for model in dict.fromkeys(job.model for job in jobs):
        mine = [number for number, job in enumerate(jobs) if job.model is model]
        images = torch.cat([jobs[number].images for number in mine])
        sizes = [len(jobs[number].images) for number in mine]
        parts = torch.split(model.classifier.probabilities(images), sizes)
        for number, part in zip(mine, parts, strict=True):
            found[number] = Outcome(part, len(images) if number == mine[0] else 0)
    return [found[number] for number in range(len(jobs))]


def load_served(pointer: Pointer) -> ServedModel:
    """Load what a pointer names; its files are verified, and no pickle is read.

    Raises:
        ManifestError: the files are not those of the manifest.
        PackageError: the package is unusable, or there is no ONNX file.
        OnnxMissingError: ONNX Runtime is not installed.
    """
    folder = Path(pointer.folder)
    classifier = classifier_of_folder(folder, pointer.engine, allow_import=pointer.allow_import)
    return ServedModel(manifest=read_manifest(folder), classifier=classifier, pointer=pointer)


class ModelWatch:
    """Holds the model that a pointer file names.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = ""
        self.model: ServedModel | None = None

    def refresh(self) -> bool:
        """Load what the file names if that is another than before, and swap; takes seconds then.

        Returns:
            Whether there is another model now.

        Raises:
            ValueError: of the kinds that :func:`load_served` tells of; the old model stays.
            OSError: there is no such file.
        """
        text = self._path.read_text(encoding="utf-8")
        if text == self._seen:
            return False
        self.model = load_served(Pointer(**json.loads(text)))
        self._seen = text
        return True
