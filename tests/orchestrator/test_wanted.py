"""What an argument that may be a model or a folder means, and when it must be told more exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
from exported import fake_export
from mlflow import MlflowClient

from deploy.package import PackageError
from orchestrator.errors import UserError
from orchestrator.serving_source import Source
from orchestrator.shipping import predictor_of, publish
from orchestrator.wanted import Wanted, folder_of


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """A registry that has a model ``cifar`` without a version."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('registry') / 'mlflow.db'}"
    MlflowClient(tracking_uri=uri, registry_uri=uri).create_registered_model("cifar")
    return uri


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with two exports and the folder of a trial; a home without a store."""
    monkeypatch.setenv("PAS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    for name in ("cifar", "cifar-1", ".hidden"):
        fake_export(tmp_path / name)
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "architecture.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("model", ["./cifar", "cifar/", "~/cifar", ".hidden", "{here}/cifar"])
def test_a_path_is_a_folder_whatever_the_registry_has(here, registry, model) -> None:
    named = model.format(here=here)
    folder = folder_of(Wanted(model=named, tracking_uri=registry))
    assert folder == Path(named).expanduser()


@pytest.mark.parametrize("has_registry", [True, False])
def test_a_name_is_a_folder_where_the_registry_has_no_such_model(registry, has_registry) -> None:
    uri = registry if has_registry else None
    assert folder_of(Wanted(model="cifar-1", tracking_uri=uri)) == Path("cifar-1")
    assert folder_of(Wanted(model="trial", tracking_uri=uri), trial=True) == Path("trial")
    assert folder_of(Wanted(model="trial", tracking_uri=uri)) is None
    assert folder_of(Wanted(model="nothing", tracking_uri=uri)) is None


def test_a_name_of_both_is_a_model_only_if_a_version_is_asked_for(registry) -> None:
    for chosen in ({"version": 7}, {"alias": "champion"}, {"version": 7, "alias": "challenger"}):
        assert folder_of(Wanted(model="cifar", tracking_uri=registry, **chosen)) is None
    with pytest.raises(UserError, match=r"write \./cifar for the folder, or cifar --alias champ"):
        folder_of(Wanted(model="cifar", tracking_uri=registry))


@pytest.mark.parametrize("model", ["./cifar", "cifar-1"])
def test_a_folder_has_no_versions_to_choose_from(registry, model) -> None:
    for chosen, option in (({"version": 7}, "--version 7"), ({"alias": "old"}, "--alias old")):
        with pytest.raises(UserError, match=f"{option} is given, but {model} is a folder"):
            folder_of(Wanted(model=model, tracking_uri=registry, **chosen))


def test_a_registry_that_does_not_answer_is_not_taken_for_an_empty_one() -> None:
    wanted = Wanted(model="cifar", tracking_uri="http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"cannot be reached.*write \./cifar for the folder"):
        folder_of(wanted)
    path = Wanted(model="./cifar", tracking_uri="http://127.0.0.1:1")
    assert folder_of(path) == Path("./cifar")  # of which nobody is asked


def test_no_command_takes_a_folder_for_the_version_that_was_asked_for(
    here, registry, object_store
) -> None:
    store = object_store.upload({})
    asked = Wanted(model="cifar", version=7, alias="challenger", tracking_uri=registry)
    for use in (
        lambda: publish(asked, store),
        lambda: predictor_of(asked, "torch"),
        lambda: Source(asked, None, here).refresh(),
    ):
        with pytest.raises(PackageError, match="no model 'cifar' with version 7"):
            use()
    assert object_store.objects(store) == {}
