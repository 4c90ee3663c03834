"""What a run says of its data: a source that MLflow can read, and never a secret."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from mlflow.data import get_source

from orchestrator.tracking_data import data_input
from pas_trainer import DataConfig


def made(root, name="imagefolder"):
    return data_input(
        DataConfig(name=name, root=root, image_size=32), "0123456789abcdef", {"train": 3, "test": 2}
    )


def test_a_folder_and_an_object_store(tmp_path):
    folder = made(str(tmp_path / "flowers"))
    assert (folder.name, folder.source_type) == ("flowers", "local")
    assert get_source(folder.entity()).uri == (tmp_path / "flowers").as_uri()
    store = made("s3://bucket/sets/flowers/")
    assert (store.name, store.source_type) == ("flowers", "s3")
    assert get_source(store.entity()).uri == "s3://bucket/sets/flowers/"
    assert json.loads(store.entity().dataset.profile)["num_rows"] == 5


def test_digits_come_with_a_library():
    digits = made(None, "digits")
    assert (digits.name, digits.source_type) == ("digits", "code")
    assert "sklearn.datasets.load_digits" in digits.source


@pytest.mark.parametrize("root", ["s3://key:secret@bucket/flowers", "s3://bucket/flowers?X=secret"])
def test_credentials_are_left_out(root):
    config = SimpleNamespace(name="imagefolder", root=root)  # DataConfig itself refuses some
    data = data_input(config, "0123", {})
    assert json.loads(data.source) == {"uri": "s3://bucket/flowers"}
