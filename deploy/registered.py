"""A version in the MLflow registry, and the files of its package as they were promoted."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from torch import Tensor

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
TASK_TAG, METRIC_TAG, FORM_TAG = "pas.task", "pas.metric", "pas.form"
"""Tags of a version: what it is for, what it is judged by, :attr:`pas_trainer.Task.form`. Of old
versions, which have none of them: classification, accuracy, program."""

_UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")

_EXAMPLE_FILE = "input_example.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisteredVersion:
    """What the registry knows of a promoted version.

    Attributes:
        model: its name.
        version: counts from 1.
        run_id: of the trial's run.
        tags: set by the promotion.
        content_hash: of its package.
        location: of its files, as MLflow addresses them.
        tracking_uri: of the store.
    """

    model: str
    version: int
    run_id: str
    tags: Mapping[str, str]
    content_hash: str
    location: str
    tracking_uri: str

    @property
    def task(self) -> str:
        """What the network is for."""
        return self.tags.get(TASK_TAG, "classification")

    @property
    def metric(self) -> str:
        """Name of what it is judged by."""
        return self.tags.get(METRIC_TAG, "accuracy")

    @property
    def form(self) -> str:
        """What the network is exported as."""
        return self.tags.get(FORM_TAG, "program")


def has_model(tracking_uri: str, model: str) -> bool:
    """Whether the registry has a model of a name.

    Raises:
        PackageError: it does not answer.
    """
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    try:
        client.get_registered_model(model)
    except MlflowException as error:
        if error.error_code in _UNKNOWN:
            return False
        raise PackageError(
            f"the registry does not tell of model {model!r} ({error.error_code}); check the "
            "tracking server, and what your account may read"
        ) from None
    return True


def find_version(
    tracking_uri: str, model: str, *, alias: str = "champion", version: int | None = None
) -> RegisteredVersion:
    """Look a version up, by its number or by an alias.

    Raises:
        PackageError: there is no such model, alias or version, it was registered by others, or the
            registry does not answer.
    """
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    try:
        if version is None:
            found = client.get_model_version_by_alias(model, alias)
        else:
            found = client.get_model_version(model, str(version))
        location = client.get_model_version_download_uri(model, found.version)
    except MlflowException as error:
        what = f"alias {alias!r}" if version is None else f"version {version}"
        if error.error_code not in _UNKNOWN:
            raise PackageError(
                f"the registry does not tell of model {model!r} with {what} ({error.error_code}); "
                "check the tracking server, and what your account may read"
            ) from None
        raise PackageError(
            f"the registry has no model {model!r} with {what} ({error.error_code}); "
            "promote a trial first, or correct the name"
        ) from None
    if CONTENT_HASH_TAG not in found.tags:
        raise PackageError(
            f"version {found.version} of model {model!r} was not registered by pas promote; "
            "name one that was"
        )
    return RegisteredVersion(
        model=model,
        version=int(found.version),
        run_id=found.run_id,
        tags=dict(found.tags),
        content_hash=found.tags[CONTENT_HASH_TAG],
        location=location,
        tracking_uri=tracking_uri,
    )


@contextmanager
def stored_package(client: MlflowClient, model_name: str, version: int) -> Iterator[Path]:
    """Give a folder with the package files of a version, until the end.

    Raises:
        MlflowException: the version is unknown, or the store failed.
    """
    location = client.get_model_version_download_uri(model_name, str(version))
    with tempfile.TemporaryDirectory() as temporary:
        yield _bring(location, EXTRA_FILES_FOLDER, Path(temporary), client.tracking_uri)


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
            "their content hash is another; promote the trial again"
        )


def download_package(registered: RegisteredVersion, folder: Path) -> Path:
    """Bring the files of a version's package below a folder, and return where they lie.

    Raises:
        PackageError: they cannot be read, or are not those that were promoted.
    """
    package = _download(registered, EXTRA_FILES_FOLDER, folder)
    check_content(package, registered.content_hash, registered.model, registered.version)
    return package


def download_example(registered: RegisteredVersion, folder: Path) -> Tensor | list[Tensor]:
    """Bring the version's input example: plain images, float32 in [0, 1].

    Returns:
        (2, C, H, W), or of a detector a list of one image (C, h, w).

    Raises:
        PackageError: it cannot be read.
    """
    path = _download(registered, _EXAMPLE_FILE, folder)
    example = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(example, list):
        return torch.tensor(example, dtype=torch.float32)
    return [torch.tensor(image, dtype=torch.float32) for image in example.values()]


def _download(registered: RegisteredVersion, name: str, folder: Path) -> Path:
    try:
        return _bring(registered.location, name, folder, registered.tracking_uri)
    except (MlflowException, OSError) as error:
        raise PackageError(
            f"{name} of version {registered.version} of model {registered.model!r} cannot be "
            f"brought from the tracking store ({type(error).__name__}); check the store's artifacts"
        ) from None


def _bring(location: str, name: str, folder: Path, tracking_uri: str) -> Path:
    found = mlflow.artifacts.download_artifacts(
        artifact_uri=f"{location.rstrip('/')}/{name}",
        dst_path=str(folder),
        tracking_uri=tracking_uri,
    )
    return Path(found)
