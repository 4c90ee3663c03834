from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from promoted import promote_package
from torch import Tensor

from deploy import PackageError, content_hash
from deploy.registered import download_example, download_package, find_version


@pytest.fixture
def promoted(tracking_uri: str, tmp_path: Path, package: Path, images: Tensor) -> str:
    """A store with version 1 of ``digits``, which ``champion`` points to."""
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    experiment = client.create_experiment("sweep", artifact_location=str(tmp_path / "artifacts"))
    run_id = client.create_run(experiment).info.run_id
    promote_package(
        client,
        folder=package,
        run_id=run_id,
        images=images,
        tags={"pas.sweep_id": "s"},
    )
    return tracking_uri


def test_a_version_is_found_with_its_package_and_example(
    promoted: str, package: Path, images: Tensor, tmp_path: Path
) -> None:
    found = find_version(promoted, "digits")
    assert found == find_version(promoted, "digits", version=1)
    assert (found.model, found.version, found.tags["pas.sweep_id"]) == ("digits", 1, "s")
    folder = download_package(found, tmp_path / "a")
    assert {path.name for path in folder.iterdir()} == {"architecture.json", "weights.safetensors"}
    assert content_hash(folder) == content_hash(package) == found.content_hash
    assert torch.equal(download_example(found, tmp_path / "b"), images[:2])


def test_what_is_not_there_or_not_ours_is_told(promoted: str, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="no model 'cats' with alias 'champion'"):
        find_version(promoted, "cats")
    with pytest.raises(PackageError, match="no model 'digits' with alias 'best'"):
        find_version(promoted, "digits", alias="best")
    with pytest.raises(PackageError, match="no model 'digits' with version 7"):
        find_version(promoted, "digits", version=7)
    client = MlflowClient(tracking_uri=promoted, registry_uri=promoted)
    client.create_registered_model("theirs")
    client.create_model_version("theirs", source=str(tmp_path))
    with pytest.raises(PackageError, match="was not registered by pas promote"):
        find_version(promoted, "theirs", version=1)


def test_a_registry_that_refuses_is_not_taken_for_an_empty_one(promoted, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise MlflowException("no", error_code=PERMISSION_DENIED)

    monkeypatch.setattr(MlflowClient, "get_model_version_by_alias", refuse)
    with pytest.raises(PackageError, match=r"does not tell .*\(PERMISSION_DENIED\).*may read"):
        find_version(promoted, "digits")


def test_files_that_are_not_those_promoted_are_refused(promoted: str, tmp_path: Path) -> None:
    found = find_version(promoted, "digits")
    stored = next((tmp_path / "artifacts").rglob("architecture.json"))
    stored.write_text(stored.read_text().replace('"0"', '"zero"'))
    with pytest.raises(PackageError, match="are not those that were promoted"):
        download_package(found, tmp_path / "a")
    stored.parent.joinpath("weights.safetensors").unlink()
    with pytest.raises(PackageError):
        download_package(found, tmp_path / "b")
