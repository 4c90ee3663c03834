"""A promoted network as a folder that anybody can use: its forms, checked, card, manifest."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deploy.manifest import (
    MANIFEST_FILE,
    Manifest,
    ManifestError,
    Preparation,
    describe_folder,
    verify_folder,
    write_manifest,
)
from deploy.model_card import CARD_FILE, Checks, model_card
from deploy.onnx_export import (
    OnnxMissingError,
    describe,
    export_onnx,
    onnx_network,
    require_onnx,
)
from deploy.package import (
    ARCHITECTURE_FILE,
    WEIGHTS_FILE,
    PackageError,
    deployed_network,
    load_package,
)
from deploy.parity import CHUNK, Error, Form, ParityError, compare_answers, parts_of, repeated
from deploy.quantization import quantize_onnx
from deploy.torch_export import export_program
from pas_trainer import task_of
from search_space import Architecture
from search_space.fakes import first_line

if TYPE_CHECKING:
    from deploy.registered import RegisteredVersion

ONNX_FILE, PROGRAM_FILE, INT8_FILE = "model.onnx", "model.pt2", "model.int8.onnx"
FORMATS = {"onnx": ONNX_FILE, "pt2": PROGRAM_FILE}
BATCH_SIZES = (1, 2, 33)
"""Batches in which every exported file must agree with torch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportImages:
    """Real images for an export.

    Attributes:
        parity: plain images, see :meth:`pas_trainer.Task.plain`, to compare the forms on.
        words: what these are.
        data: what the network was trained on, in words.
        resize: how images are prepared for the network.
        calibration: uint8 (N, C, H, W), training images as evaluated; ``None`` without int8,
            which is for classifiers.
        validation: uint8 images and their labels; ``None`` without int8.
    """

    parity: Any
    words: str
    data: str
    resize: Preparation
    calibration: Tensor | None = None
    validation: tuple[Tensor, Tensor] | None = None


def file_names(formats: Collection[str], *, int8: bool) -> frozenset[str]:
    """Return the names of the files that an export writes, without the manifest."""
    exported = {FORMATS[name] for name in formats} | ({INT8_FILE} if int8 else set())
    return frozenset({ARCHITECTURE_FILE, WEIGHTS_FILE, CARD_FILE, *exported})


def write_export(
    out: Path,
    registered: RegisteredVersion,
    package: Path,
    images: ExportImages,
    *,
    formats: Collection[str] = tuple(FORMATS),
    allow_import: bool = False,
) -> tuple[Manifest, Checks]:
    """Write the folder of a version; it appears whole or not at all.

    Args:
        out: must not exist, or be empty.
        registered: the version.
        package: its package, see :func:`deploy.registered.download_package`.
        images: to check with; with ``calibration`` and ``validation`` there will be an int8 form.
        formats: which of :data:`FORMATS`.
        allow_import: see :func:`deploy.load_package`.

    Raises:
        PackageError: the package is unusable, or there can be no such form of its network.
        ParityError: an exported form disagrees with torch.
        OnnxMissingError: the extra ``onnx`` is not installed.
        ManifestError: ``out`` holds something.
    """
    check_free(out)
    if "onnx" in formats:
        require_onnx()
    architecture, network = load_package(package, allow_import=allow_import)
    check_formats(architecture, formats)
    network, error = deployed_network(architecture, network), task_of(architecture).error
    with draft_of(out) as draft:
        for name in (ARCHITECTURE_FILE, WEIGHTS_FILE):
            shutil.copyfile(package / name, draft / name)
        forms = _write_forms(draft, registered, network, architecture, images.resize, formats)
        errors = {
            name: check_forms(name, network, form, images.parity, error)
            for name, form in forms.items()
        }
        checks = Checks(
            images=images.words,
            batch_sizes=BATCH_SIZES if isinstance(images.parity, Tensor) else (1,),
            errors=errors,
            accuracies=_write_int8(draft, forms, images),
            num_validation=len(images.validation[1]) if images.validation else 0,
        )
        files = _manifest(draft, registered, images.resize).files
        card = model_card(registered, architecture, images.resize, images.data, checks, files)
        (draft / CARD_FILE).write_text(card, encoding="utf-8")
        manifest = _manifest(draft, registered, images.resize)
        write_manifest(draft, manifest)
    return manifest, checks


def _write_forms(
    draft: Path,
    registered: RegisteredVersion,
    network: nn.Module,
    architecture: Architecture,
    resize: Preparation,
    formats: Collection[str],
) -> dict[str, Form]:
    """Write the exported forms and return them, loaded, by file."""
    forms: dict[str, Form] = {}
    if "pt2" in formats:
        with _exporting(PROGRAM_FILE):
            export_program(network, architecture, draft / PROGRAM_FILE)
        forms[PROGRAM_FILE] = torch.export.load(draft / PROGRAM_FILE).module()
    if "onnx" in formats:
        metadata = describe(
            architecture,
            model=registered.model,
            version=registered.version,
            content_hash=registered.content_hash,
            resize=resize,
        )
        with _exporting(ONNX_FILE):
            export_onnx(network, architecture, draft / ONNX_FILE, metadata)
        forms[ONNX_FILE] = onnx_network(draft / ONNX_FILE)
    return forms


@contextmanager
def _exporting(name: str) -> Iterator[None]:
    """Tell in one sentence why a network cannot be had in a form."""
    try:
        yield
    except (OSError, OnnxMissingError):
        raise
    except Exception as error:  # what torch's exporters raise is of many kinds
        raise PackageError(f"no {name} can be made of the network ({first_line(error)})") from error


def _write_int8(draft: Path, forms: dict[str, Form], images: ExportImages) -> dict[str, float]:
    """Write the int8 form, if there are images for it, and return accuracies by file."""
    if images.calibration is None or images.validation is None:
        return {}
    quantize_onnx(draft / ONNX_FILE, draft / INT8_FILE, images.calibration)
    both = {ONNX_FILE: forms[ONNX_FILE], INT8_FILE: onnx_network(draft / INT8_FILE)}
    return {name: accuracy(form, *images.validation) for name, form in both.items()}


def _manifest(draft: Path, registered: RegisteredVersion, resize: Preparation) -> Manifest:
    return describe_folder(
        draft,
        model=registered.model,
        version=registered.version,
        content_hash=registered.content_hash,
        resize=resize,
    )


def check_formats(architecture: Architecture, formats: Collection[str]) -> None:
    """Check that a network can be had in these formats.

    Raises:
        PackageError: it cannot.
    """
    if "pt2" in formats and "pt2" not in formats_of(task_of(architecture).form):
        raise PackageError(
            f"a network for {architecture.task} takes steps that depend on what it sees, which "
            "torch.export cannot express; take --format onnx"
        )


def formats_of(form: str) -> list[str]:
    """Return those of :data:`FORMATS` that a network of a task's form can be had in."""
    return ["onnx"] if form == "onnx" else list(FORMATS)


@torch.inference_mode()
def check_forms(name: str, network: Form, form: Form, images: Any, error: Error) -> float:
    """Compare a form with the torch network in batches of :data:`BATCH_SIZES`.

    Args:
        name: of the form's file, for errors.
        network: in torch.
        form: what shall equal it.
        images: plain; repeated where a batch needs more. Of a list, each by itself.
        error: of answers.

    Returns:
        The largest error.

    Raises:
        ParityError: it is above :data:`deploy.parity.PARITY_TOLERANCE`; names the file and the
            batch size.
    """
    errors = []
    if isinstance(images, Tensor):
        batches = {f"in a batch of {size}": repeated(images, size) for size in BATCH_SIZES}
    else:
        batches = {f"on image {i} of {len(images)}": [images[i]] for i in range(len(images))}
    for where, batch in batches.items():
        try:
            errors.append(compare_answers(network(batch), form(batch), error))
        except ParityError as refused:
            raise ParityError(f"{name}, {where}: {refused}") from None
    return max(errors)


@torch.inference_mode()
def accuracy(form: Form, images: Tensor, labels: Tensor) -> float:
    """Return the share of images that a form classifies correctly, in [0, 1].

    Args:
        form: takes float32 images in [0, 1].
        images: uint8 (N, C, H, W), N >= 1.
        labels: int64 (N,).
    """
    predicted = [form(part.float() / 255).argmax(dim=1) for part in parts_of(images, CHUNK)]
    return float((torch.cat(predicted) == labels).double().mean())


def held_export(
    out: Path, *, content_hash: str, model: str, version: int, names: Collection[str]
) -> Manifest | None:
    """Return the manifest of a folder that holds these files of this version already.

    Raises:
        ManifestError: it holds something else, or files that are not those of its manifest.
    """
    if not (out / MANIFEST_FILE).is_file():
        check_free(out)
        return None
    manifest = verify_folder(out)
    same = (manifest.content_hash, manifest.model, manifest.version) == (
        content_hash,
        model,
        version,
    )
    if not same or manifest.names != frozenset(names):
        raise ManifestError(
            f"{out} holds another export (version {manifest.version} of {manifest.model!r}: "
            f"{', '.join(sorted(manifest.names))}); name another folder"
        )
    return manifest


def check_free(out: Path) -> None:
    """Check that a folder can be written: there is none, or it is empty.

    Raises:
        ManifestError: something is there, or it is the working folder, whose place cannot be taken.
    """
    if out.resolve() == Path.cwd():
        raise ManifestError(f"{out} is the working folder; name one that it is to hold")
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise ManifestError(f"{out} exists and is not empty; name another folder")


@contextmanager
def draft_of(out: Path) -> Iterator[Path]:
    """Give a folder beside ``out`` that takes its place in one step, unless something fails."""
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield draft
        draft.chmod(0o755)
        draft.replace(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
