"""What leaves the registry: a version as a folder, its folder on an object store, predictions."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection
from pathlib import Path

from deploy.drawing import Drawer, drawer_of_package
from deploy.export_folder import (
    ONNX_FILE,
    file_names,
    formats_of,
    held_export,
    write_export,
)
from deploy.manifest import MANIFEST_FILE, Manifest, verify_folder
from deploy.model_card import Checks
from deploy.onnx_export import describe, export_onnx, onnx_network
from deploy.package import (
    deployed_network,
    load_architecture,
    load_package,
    load_trusted,
)
from deploy.prediction import Classifier, classifier_of_folder, classifier_of_package
from deploy.published import open_models
from deploy.publishing import Published, find_published, move_pointer, publish_folder
from deploy.registered import RegisteredVersion, download_package
from orchestrator.errors import UserError
from orchestrator.home import Home
from orchestrator.staged_data import Tell
from orchestrator.sweep_images import export_images
from orchestrator.wanted import Wanted, folder_of

KEY_VARIABLE = "PAS_SIGNING_KEY"


def export(
    wanted: Wanted,
    out: Path,
    *,
    formats: Collection[str] | None = None,
    int8: bool = False,
    tell: Tell = lambda _: None,
) -> tuple[Manifest, Checks | None]:
    """Write the folder of a version; see :func:`deploy.export_folder.write_export`.

    Args:
        wanted: which version.
        out: the folder.
        formats: which of :data:`deploy.export_folder.FORMATS`; by default all there can be.
        int8: whether to add an ONNX network of 8 bits.
        tell: for progress.

    Returns:
        Its manifest, and what was checked; ``None`` if the folder was there already.

    Raises:
        UserError: bad input, or int8 without the sweep's images.
        ValueError: of the kinds that :func:`deploy.export_folder.write_export` tells of.
    """
    if int8 and formats is not None and "onnx" not in formats:
        raise UserError("--int8 is made from the ONNX network; add --format onnx")
    registered = wanted.find()
    formats = formats_of(registered.form) if formats is None else formats
    held = held_export(
        out,
        content_hash=registered.content_hash,
        model=registered.model,
        version=registered.version,
        names=file_names(formats, int8=int8),
    )
    if held is not None:
        return held, None
    home = Home.from_environment()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        package = download_package(registered, scratch)
        architecture = load_trusted(package, allow_import=wanted.allow_import)
        tell("data")
        images = export_images(home, registered, architecture, scratch, int8=int8, tell=tell)
        tell(f"exporting version {registered.version} of {registered.model}")
        return write_export(
            out, registered, package, images, formats=formats, allow_import=wanted.allow_import
        )


def publish(
    wanted: Wanted, address: str, tell: Tell = lambda _: None, *, again: bool = False
) -> Published:
    """Publish an exported folder, or a version that is exported for it unless it is there already.

    With ``again`` even then: over files that are damaged or others.

    Raises:
        UserError: bad input.
        ValueError: of the kinds that :func:`export` and
            :func:`deploy.publishing.publish_folder` tell of.
    """
    store, key = open_models(address), signing_key()
    if (folder := folder_of(wanted)) is not None:
        return publish_folder(folder, store, key, again=again)
    found = wanted.find()
    identity = (found.model, found.version, found.content_hash)
    there = None if again else find_published(store, *identity, key)
    if there is not None:
        return Published(
            uri=f"{store.uri}/{there.model}/{there.folder}",
            manifest=there,
            uploaded=(),
            moved=move_pointer(store, there),
        )
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "export"
        export(wanted, out, tell=tell)
        tell(f"uploading to {store.uri}")
        return publish_folder(out, store, key, again=again)


def predictor_of(wanted: Wanted, engine: str) -> Classifier | Drawer:
    """Return a network ready for files: of an exported folder, a trial's folder or a version.

    Raises:
        UserError: bad input.
        ValueError: of the kinds that :func:`deploy.prediction.classifier_of_folder` tells of.
    """
    if (folder := folder_of(wanted, trial=True)) is not None:
        if not (folder / MANIFEST_FILE).is_file():
            return _of_trial(folder, wanted, engine)
        verify_folder(folder)
        if load_architecture(folder).task == "classification":
            return classifier_of_folder(folder, engine, allow_import=wanted.allow_import)
        return _drawer_of(folder, wanted, engine)
    registered = wanted.find()
    with tempfile.TemporaryDirectory() as temporary:
        package = download_package(registered, Path(temporary))
        if load_architecture(package).task != "classification":
            return _drawer_of(package, wanted, engine)
        return _classifier_of(registered, package, wanted, engine)


def _of_trial(folder: Path, wanted: Wanted, engine: str) -> Classifier | Drawer:
    if load_architecture(folder).task != "classification":
        return _drawer_of(folder, wanted, engine)
    if engine != "torch":
        raise UserError(f"--engine {engine}: a trial's folder has no such form; pas export has it")
    return classifier_of_package(folder, allow_import=wanted.allow_import)


def _drawer_of(package: Path, wanted: Wanted, engine: str) -> Drawer:
    if engine != "torch":
        raise UserError(f"--engine {engine} is for classification; pictures are drawn by torch")
    return drawer_of_package(package, allow_import=wanted.allow_import)


def _classifier_of(
    registered: RegisteredVersion, package: Path, wanted: Wanted, engine: str
) -> Classifier:
    """Return the network of a version whose package lies in a folder, which may be written to."""
    allow = wanted.allow_import
    classifier = classifier_of_package(package, allow_import=allow)
    if engine == "torch":
        return classifier
    architecture, network = load_package(package, allow_import=allow)
    path = package / ONNX_FILE
    facts = describe(
        architecture,
        model=registered.model,
        version=registered.version,
        content_hash=registered.content_hash,
        resize=classifier.resize,
    )
    export_onnx(deployed_network(architecture, network), architecture, path, facts)
    form = onnx_network(path)
    return Classifier(architecture=architecture, resize=classifier.resize, form=form)


def signing_key() -> str | None:
    """Return the key that manifests are signed with (``PAS_SIGNING_KEY``), if there is one."""
    return os.environ.get(KEY_VARIABLE) or None
