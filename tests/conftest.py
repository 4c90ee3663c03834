import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

settings.register_profile("suite", max_examples=60, deadline=None, print_blob=True)
settings.register_profile("long", max_examples=500, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

# Ray gives way to every other process of the machine, another test file's among them.
os.environ.setdefault("RAY_worker_niceness", "0")


READ_FINISHED = (
    "test_chaos_end_to_end",
    "test_cli_results",
    "test_report",
    "test_shipping_end_to_end",
    "test_sweep_end_to_end",
    "test_tracking_sqlite",
)
"""Files that read the sweep ``finished``, which runs once per worker."""


class FilesOnWorkers(LoadFileScheduling):
    """Gives a worker a whole file at a time, and one worker all of READ_FINISHED."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "finished" if Path(file).stem in READ_FINISHED else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> FilesOnWorkers:
    return FilesOnWorkers(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that no worker is left with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


_STORE_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nowhere",
    "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
}


@pytest.fixture(scope="session")
def _object_store():
    from object_stores import DisturbedStore

    with pytest.MonkeyPatch.context() as patch:
        for name, value in _STORE_ENVIRONMENT.items():
            patch.setenv(name, value)
        store = DisturbedStore()
        yield store
        store.stop()


@pytest.fixture
def object_store(_object_store, monkeypatch):
    """An S3 endpoint that the environment names, undisturbed."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**_STORE_ENVIRONMENT, "AWS_ENDPOINT_URL": _object_store.url}.items():
        monkeypatch.setenv(name, value)
    _object_store.calm()
    yield _object_store
    _object_store.calm()


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    """Sums come out bit-identically only with the same number of threads."""
    torch.set_num_threads(1)
