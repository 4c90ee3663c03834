"""Promotion: a trial's package becomes a version in the MLflow model registry.

Everything goes through :class:`mlflow.MlflowClient`: no active run, no global tracking URI. The
trial's run is only pointed to, never written to. The alias moves last, so a promotion that breaks
off leaves the alias where it was, and doing it again finishes it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from torch import Tensor

from deploy.mlflow_model import (
    EXTRA_FILES_FOLDER,
    check_exported,
    save_mlflow_model,
    write_metadata,
)
from deploy.package import DeployedClassifier, content_hash, load_package
from deploy.parity import check_parity
from search_space import Architecture

CONTENT_HASH_TAG = "pas.content_hash"
"""Tag of a version (and its logged model): :func:`deploy.content_hash` of its package."""
PARITY_ERROR_TAG = "pas.parity_error"
"""Tag of a version: error of the deploy form, see :func:`deploy.check_parity`."""

_LOGGED_MODEL_NAME = "deployed_classifier"


@dataclass(frozen=True, kw_only=True, slots=True)
class PromotedModel:
    """A version in the registry that an alias points to.

    Attributes:
        name: registered model.
        version: counts from 1 within the name.
        alias: what now points to the version.
        model_uri: ``models:/NAME/VERSION``, stays with this version when the alias moves on.
        parity_error: largest logit difference of training form and deploy form, relative to
            ``max(1, largest absolute logit)``.
    """

    name: str
    version: int
    alias: str
    model_uri: str
    parity_error: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """A promoted version, rebuilt from the package files stored with it.

    Attributes:
        name: registered model.
        version: the version the alias pointed to.
        architecture: image size, class names and the rest.
        classifier: takes (N, C, H, W) float32 in [0, 1], returns logits; in eval mode, on the CPU.
    """

    name: str
    version: int
    architecture: Architecture
    classifier: DeployedClassifier


def promote_package(
    client_or_tracking_uri: MlflowClient | str,
    *,
    folder: str | os.PathLike[str],
    model_name: str,
    alias: str,
    run_id: str,
    images: Tensor,
    tags: Mapping[str, str],
    allow_import: bool = False,
) -> PromotedModel:
    """Check a package, register it as a version of a model and move an alias to it.

    The version loads with plain MLflow, without this code and without pickle. Promoting the same
    package of the same run again makes no second version: the tags are set and the alias moves.

    Args:
        client_or_tracking_uri: the tracking store, which is also the registry.
        folder: package with training weights.
        model_name: registered model, made if new.
        alias: for example ``champion``.
        run_id: the trial's run; its status and times stay as they are.
        images: held-out images (N, C, H, W), float32 in [0, 1], for the parity check; the first
            two are stored with the model as its input example.
        tags: set on the version, besides :data:`CONTENT_HASH_TAG` and :data:`PARITY_ERROR_TAG`.
        allow_import: see :func:`deploy.load_package`.

    Raises:
        PackageError: the package is unusable or has no training weights.
        ParityError: training form, deploy form and exported program disagree.
        ValueError: the images do not suit the network.
        MlflowException: the run is unknown, a name or alias is not allowed, or the store failed.
    """
    client = _client(client_or_tracking_uri)
    run = client.get_run(run_id)
    architecture, network = load_package(folder, allow_import=allow_import)
    _check_images(images, architecture)
    _, training_network = load_package(folder, deploy=False, allow_import=allow_import)
    classifier = DeployedClassifier(architecture, network).eval()
    training_classifier = DeployedClassifier(architecture, training_network)
    parity_error = check_parity(training_classifier, classifier, images)
    package_hash = content_hash(folder)
    own_tags = {CONTENT_HASH_TAG: package_hash, PARITY_ERROR_TAG: f"{parity_error:.3g}"}
    all_tags = {**tags, **own_tags}
    version = _find_version(client, model_name, run_id, package_hash)
    if version is None:
        with tempfile.TemporaryDirectory() as temporary:
            model_folder = Path(temporary) / "model"
            model = save_mlflow_model(model_folder, classifier, folder, images)
            check_exported(model_folder, classifier, images)
            version = _register(client, model_name, run, model_folder, model, all_tags)
    else:
        for key, value in all_tags.items():
            client.set_model_version_tag(model_name, str(version), key, value)
    client.set_registered_model_alias(model_name, alias, str(version))
    return PromotedModel(
        name=model_name,
        version=version,
        alias=alias,
        model_uri=f"models:/{model_name}/{version}",
        parity_error=parity_error,
    )


def load_promoted(
    client_or_tracking_uri: MlflowClient | str,
    model_name: str,
    alias: str,
    *,
    allow_import: bool = False,
) -> LoadedModel:
    """Load the version that an alias points to, without pickle and on any device.

    Only the package files stored with the version are downloaded (``architecture.json`` and the
    weights); the network is rebuilt from them. One that was made from
    an ``import:`` supernet is refused unless ``allow_import``, since that runs the code it names.

    Raises:
        MlflowException: the model or alias is unknown, or the store failed.
        PackageError: the stored files are unusable.
    """
    client = _client(client_or_tracking_uri)
    version = client.get_model_version_by_alias(model_name, alias)
    location = client.get_model_version_download_uri(model_name, version.version)
    with tempfile.TemporaryDirectory() as temporary:
        folder = mlflow.artifacts.download_artifacts(
            artifact_uri=f"{location.rstrip('/')}/{EXTRA_FILES_FOLDER}",
            dst_path=temporary,
            tracking_uri=client.tracking_uri,
        )
        architecture, network = load_package(folder, allow_import=allow_import)
    return LoadedModel(
        name=model_name,
        version=int(version.version),
        architecture=architecture,
        classifier=DeployedClassifier(architecture, network).eval(),
    )


def _client(client_or_tracking_uri: MlflowClient | str) -> MlflowClient:
    if isinstance(client_or_tracking_uri, str):
        uri = client_or_tracking_uri
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    return client_or_tracking_uri


def _check_images(images: Tensor, architecture: Architecture) -> None:
    shape = (architecture.in_channels, architecture.image_size, architecture.image_size)
    if images.ndim != 4 or tuple(images.shape[1:]) != shape or len(images) == 0:
        raise ValueError(f"images have shape {tuple(images.shape)}, expected (N, *{shape})")
    if images.dtype != torch.float32 or images.device.type != "cpu":
        raise ValueError(f"images are {images.dtype} on {images.device}, expected float32 on cpu")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("images must lie in [0, 1]")


def _find_version(
    client: MlflowClient, model_name: str, run_id: str, package_hash: str
) -> int | None:
    """Latest version of this model that came from the same run and the same package."""
    versions = client.search_model_versions(f"run_id = '{run_id}'")
    same = [
        int(version.version)
        for version in versions
        if version.name == model_name and version.tags.get(CONTENT_HASH_TAG) == package_hash
    ]
    return max(same, default=None)


def _register(
    client: MlflowClient,
    model_name: str,
    run: Any,
    model_folder: Path,
    model: Any,
    tags: dict[str, str],
) -> int:
    """Upload a model folder as a logged model of the run and make it a new version."""
    _ensure_registered_model(client, model_name)
    logged = client.create_logged_model(
        experiment_id=run.info.experiment_id,
        name=_LOGGED_MODEL_NAME,
        source_run_id=run.info.run_id,
        tags={CONTENT_HASH_TAG: tags[CONTENT_HASH_TAG]},
    )
    try:
        model.run_id = run.info.run_id
        model.model_id = model.model_uuid = logged.model_id
        model.artifact_path = logged.artifact_location
        write_metadata(model_folder, model)
        client.log_model_artifacts(logged.model_id, str(model_folder))
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")
    # Not "models:/<model_id>": a database registry resolves that through the global tracking URI.
    version = client.create_model_version(
        model_name,
        source=logged.artifact_location,
        run_id=run.info.run_id,
        tags=tags,
        model_id=logged.model_id,
    )
    return int(version.version)


def _ensure_registered_model(client: MlflowClient, model_name: str) -> None:
    try:
        client.create_registered_model(model_name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
