from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from sklearn.datasets import load_digits
from torch import Tensor, nn

from deploy import save_package
from deploy.object_store import ObjectStore
from deploy.published import open_models
from pas_trainer import build_compact, reparameterize
from search_space import Architecture


@pytest.fixture(autouse=True)
def _no_pickle_and_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


@dataclass(frozen=True)
class Trial:
    """What a trial leaves; building its network takes longer than most tests."""

    architecture: Architecture
    training_network: nn.Module
    package: Path


@pytest.fixture(scope="session")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """Random weights, and batch-norm statistics that make every branch count."""
    sizes = {"stages.0.0": 16, "stages.1.0": 32, "stages.1.1": 32, "stages.2.0": 64}
    architecture = Architecture(
        supernet="repvgg_tiny",
        options={},
        in_channels=1,
        image_size=8,
        mean=[0.3],
        std=[0.35],
        classes=[str(digit) for digit in range(10)],
        open_channels={
            **{name: list(range(0, size, 2)) for name, size in sizes.items()},
            "stages.2.1": list(range(5, 40)),
        },
    )
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_compact(architecture, deploy=False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
    package = tmp_path_factory.mktemp("trial") / "package"
    save_package(package, architecture, reparameterize(network), network)
    return Trial(architecture, network, package)


@pytest.fixture
def architecture(trial: Trial) -> Architecture:
    return copy.deepcopy(trial.architecture)


@pytest.fixture
def training_network(trial: Trial) -> nn.Module:
    return copy.deepcopy(trial.training_network)


@pytest.fixture
def deploy_network(training_network: nn.Module) -> nn.Module:
    return reparameterize(training_network)


@pytest.fixture
def package(tmp_path: Path, trial: Trial) -> Path:
    return Path(shutil.copytree(trial.package, tmp_path / "trial package"))


@pytest.fixture(scope="session")
def images() -> Tensor:
    pixels = torch.from_numpy(load_digits().images[:65]).float() / 16
    return pixels.unsqueeze(1).contiguous()


@pytest.fixture
def tracking_uri(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlite_template: Path
) -> Iterator[str]:
    """A fresh database; the working folder is empty and must stay so."""
    database = tmp_path / "mlflow.db"
    database.write_bytes(sqlite_template.read_bytes())
    working = tmp_path / "cwd"
    working.mkdir()
    monkeypatch.chdir(working)
    yield f"sqlite:///{database}"
    assert list(working.iterdir()) == []


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables: making them takes seconds, copying them nothing."""
    path = tmp_path_factory.mktemp("mlflow") / "template.db"
    uri = f"sqlite:///{path}"
    MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments()
    return path


_stores: dict[str, ObjectStore] = {}
"""By endpoint: to open one takes longer than most of the tests that use it."""


@pytest.fixture
def models_store(object_store) -> ObjectStore:
    """A store below whose address nothing lies."""
    if object_store.url not in _stores:
        _stores[object_store.url] = open_models(object_store.upload({}, "models"))
    store = _stores[object_store.url]
    for item in store.objects():
        store.delete(item.path)
    object_store.written.clear()
    return store
