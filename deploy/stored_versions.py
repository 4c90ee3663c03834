"""Versions in the registry, read back from the package files stored with them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from torch import nn

from deploy.mlflow_model import EXTRA_FILES_FOLDER
from deploy.package import (
    ARCHITECTURE_FILE,
    WEIGHTS_FILE,
    PackageError,
    content_hash,
    deployed_network,
    imported_names,
    load_architecture,
    load_package,
)
from deploy.promotions import PromotionError
from search_space import Architecture

CONTENT_HASH_TAG = "pas.content_hash"
"""Tag of a version (and its logged model): :func:`deploy.content_hash` of its package."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """A promoted version, rebuilt from the package files stored with it.

    Attributes:
        name: registered model.
        version: the version the alias pointed to.
        architecture: image size, class names and the rest.
        network: as it is shipped: takes plain images, float32 in [0, 1], and gives the task's
            answers; in eval mode, on the CPU.
    """

    name: str
    version: int
    architecture: Architecture
    network: nn.Module


def load_promoted(
    client_or_tracking_uri: MlflowClient | str,
    model_name: str,
    alias: str,
    *,
    allow_import: bool = False,
) -> LoadedModel:
    """Load the version that an alias points to from its package files, on any device.

    Only these are downloaded (``architecture.json`` and the weights); the network is rebuilt from
    them, without pickle. One with an ``import:`` supernet or task is refused unless
    ``allow_import``, since that runs the code it names.

    Raises:
        MlflowException: the model or alias is unknown, or the store failed.
        PackageError: the stored files are unusable, or not those that were promoted.
    """
    client = registry_client(client_or_tracking_uri)
    found = client.get_model_version_by_alias(model_name, alias)
    version, promised = int(found.version), found.tags.get(CONTENT_HASH_TAG)
    with stored_package(client, model_name, version) as folder:
        if promised is not None:
            check_content(folder, promised, model_name, version)
        architecture, network = load_package(folder, allow_import=allow_import)
    return LoadedModel(
        name=model_name,
        version=version,
        architecture=architecture,
        network=deployed_network(architecture, network),
    )


def check_version(client: MlflowClient, model_name: str, version: int) -> None:
    """Check that a version's package is what was promoted, and loads.

    One with an ``import:`` supernet or task is not rebuilt, which would run the code it names:
    equal content must do.

    Raises:
        MlflowException: the version is unknown, or its files cannot be brought.
        PromotionError: it was not promoted by this package, or has no files any more.
        PackageError: its files are others, or unusable.
    """
    promised = client.get_model_version(model_name, str(version)).tags.get(CONTENT_HASH_TAG)
    if promised is None:
        raise PromotionError(
            f"version {version} of {model_name!r} has no tag {CONTENT_HASH_TAG}: it was not "
            "promoted by this package"
        )
    with stored_package(client, model_name, version) as folder:
        for name in (ARCHITECTURE_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise PromotionError(f"version {version} of {model_name!r} has no {name} any more")
        check_content(folder, promised, model_name, version)
        if not imported_names(load_architecture(folder)):
            load_package(folder)


def check_content(folder: Path, promised: str, model_name: str, version: int) -> None:
    """Check that the files of a version's package are those that were promoted.

    Raises:
        PackageError: they are not.
    """
    if content_hash(folder) != promised:
        raise PackageError(
            f"the files of version {version} of {model_name!r} are not those that were promoted: "
            "their content hash is another"
        )


def registry_client(client_or_tracking_uri: MlflowClient | str) -> MlflowClient:
    """Return a client of a tracking store that is also the registry."""
    if isinstance(client_or_tracking_uri, str):
        uri = client_or_tracking_uri
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    return client_or_tracking_uri


@contextmanager
def stored_package(client: MlflowClient, model_name: str, version: int) -> Iterator[Path]:
    """Give a folder with the package files of a version, until the end.

    Raises:
        MlflowException: the version is unknown, or the store failed.
    """
    location = client.get_model_version_download_uri(model_name, str(version))
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=f"{location.rstrip('/')}/{EXTRA_FILES_FOLDER}",
                dst_path=temporary,
                tracking_uri=client.tracking_uri,
            )
        )
