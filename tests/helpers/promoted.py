"""Packages as versions of a registry, promoted without gates, and read back from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from torch import nn

from deploy import deployed_network, load_package
from deploy.candidate import open_candidate
from deploy.promotions import aliases_of, move_alias
from deploy.registered import stored_package
from deploy.registry import register_candidate
from search_space import Architecture


def promote_package(
    client_or_uri: MlflowClient | str,
    *,
    folder: Path,
    run_id: str,
    images: Any,
    model_name: str = "digits",
    alias: str = "champion",
    tags: dict[str, str] | None = None,
    allow_import: bool = False,
) -> int:
    """Register a package and move an alias to it, as a promotion does after its gates.

    Args:
        client_or_uri: of the registry.
        folder: package with training weights.
        run_id: of a trial.
        images: plain ones.
        model_name: registered model.
        alias: what moves.
        tags: of the version.
        allow_import: see :func:`deploy.load_package`.

    Returns:
        The version's number.
    """
    client = _client(client_or_uri)
    with open_candidate(folder, images, allow_import=allow_import) as candidate:
        version = register_candidate(
            client, candidate, model_name, run_id=run_id, tags=tags or {}, description=""
        )
        seen = aliases_of(client, model_name).get(alias)
        _, in_force = move_alias(
            *(client, model_name),
            alias=alias,
            kind="promotion",
            to_version=version,
            seen=seen,
            run_id=run_id,
            content_hash=candidate.content_hash,
        )
    assert in_force
    return version


@dataclass(frozen=True)
class Stored:
    """A version, and its network as it is shipped, rebuilt from its package."""

    version: int
    architecture: Architecture
    network: nn.Module


def load_promoted(
    client_or_uri: MlflowClient | str,
    model_name: str = "digits",
    alias: str = "champion",
    *,
    allow_import: bool = False,
) -> Stored:
    """Load the version that an alias points to."""
    client = _client(client_or_uri)
    version = aliases_of(client, model_name)[alias]
    with stored_package(client, model_name, version) as folder:
        architecture, network = load_package(folder, allow_import=allow_import)
    return Stored(version, architecture, deployed_network(architecture, network))


def _client(client_or_uri: MlflowClient | str) -> MlflowClient:
    if isinstance(client_or_uri, str):
        return MlflowClient(tracking_uri=client_or_uri, registry_uri=client_or_uri)
    return client_or_uri
