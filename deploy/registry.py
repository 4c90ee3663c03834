"""A trial's package becomes a version in the MLflow model registry.

Everything goes through :class:`mlflow.MlflowClient`: no active run, no global tracking URI. The
trial's run only gains its network as an output. No alias moves here, so what breaks off leaves the
aliases where they were, and doing it again finishes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from deploy.candidate import Candidate
from deploy.logged_models import log_network, name_version, upload_files
from deploy.package import PackageError
from deploy.promotions import PromotionError
from deploy.registered import CONTENT_HASH_TAG, FORM_TAG, METRIC_TAG, TASK_TAG, check_version


def register_candidate(
    client: MlflowClient,
    candidate: Candidate,
    model_name: str,
    *,
    run_id: str,
    tags: Mapping[str, str],
    description: str = "",
) -> int:
    """Make a candidate a version of a model and return its number; no alias moves.

    The version loads with plain MLflow, without this code and without pickle. Registering the same
    package of the same run again makes no second version: tags and description are set, and files
    that were damaged meanwhile are written anew.

    Raises:
        MlflowException: the run is unknown, a name is not allowed, or the store failed.
    """
    run = client.get_run(run_id)
    all_tags = {
        **tags,
        CONTENT_HASH_TAG: candidate.content_hash,
        TASK_TAG: candidate.architecture.task,
        METRIC_TAG: candidate.task.metric.name,
        FORM_TAG: candidate.task.form,
    }
    version = _find_version(client, model_name, run_id, candidate.content_hash)
    if version is None:
        return _register(client, model_name, run, candidate, all_tags, description)
    logged = log_network(client, run, candidate.content_hash, {})
    if not _is_whole(client, model_name, version):
        upload_files(client, logged, candidate.model, candidate.model_folder)
    name_version(client, logged, model_name, str(version))
    for key, value in all_tags.items():
        client.set_model_version_tag(model_name, str(version), key, value)
    if description:
        client.update_model_version(model_name, str(version), description)
    return version


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


def _is_whole(client: MlflowClient, model_name: str, version: int) -> bool:
    try:
        check_version(client, model_name, version)
    except (PackageError, PromotionError, MlflowException, OSError):
        return False
    return True


def _register(
    client: MlflowClient,
    model_name: str,
    run: Any,
    candidate: Candidate,
    tags: dict[str, str],
    description: str,
) -> int:
    """Give the logged model of the run's network its files; make it a new version.

    If it has files already, as a version of another model, they are written anew: what becomes a
    version is what has been checked.
    """
    _ensure_registered_model(client, model_name)
    logged = log_network(client, run, tags[CONTENT_HASH_TAG], {})
    upload_files(client, logged, candidate.model, candidate.model_folder)
    # Not "models:/<model_id>": a database registry resolves that through the global tracking URI.
    version = client.create_model_version(
        model_name,
        source=logged.artifact_location,
        run_id=run.info.run_id,
        tags=tags,
        description=description or None,
        model_id=logged.model_id,
    )
    name_version(client, logged, model_name, str(version.version))
    return int(version.version)


def _ensure_registered_model(client: MlflowClient, model_name: str) -> None:
    try:
        client.create_registered_model(model_name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
