"""Versions in the registry, read back from the package files stored with them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow import MlflowClient

from deploy.mlflow_model import EXTRA_FILES_FOLDER
from deploy.package import (
    ARCHITECTURE_FILE,
    WEIGHTS_FILE,
    PackageError,
    content_hash,
    imported_names,
    load_architecture,
    load_package,
)
from deploy.promotions import PromotionError

CONTENT_HASH_TAG = "pas.content_hash"
"""Tag of a version (and its logged model): :func:`deploy.content_hash` of its package."""


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
