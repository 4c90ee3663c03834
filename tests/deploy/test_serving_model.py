from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from exported import digits
from serving import exported_folder, load

from deploy.manifest import ManifestError, read_manifest, write_manifest
from deploy.serving_model import Job, ModelWatch, Pointer, classify_together


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return exported_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def other(folder, tmp_path):
    """The same network as another version."""
    shutil.copytree(folder, tmp_path / "other")
    write_manifest(
        tmp_path / "other", dataclasses.replace(read_manifest(tmp_path / "other"), version=4)
    )
    return tmp_path / "other"


def test_jobs_are_classified_together_each_by_its_own_model(folder, other) -> None:
    old, new = load(folder), load(other)
    for weight in new.classifier.form.parameters():
        weight.requires_grad_(requires_grad=False).mul_(2)
    images = digits()[0]
    jobs = [
        Job(old, images[:3]),
        Job(new, images[3:4]),
        Job(old, images[4:6]),
        Job(new, images[:3]),
    ]
    found = classify_together(jobs)
    for job, outcome in zip(jobs, found, strict=True):
        assert torch.allclose(outcome.probabilities, job.model.classifier.probabilities(job.images))
    assert not torch.allclose(found[0].probabilities, found[3].probabilities)
    assert [outcome.batch_images for outcome in found] == [5, 4, 0, 0]
    assert sum(outcome.batch_images for outcome in found) == sum(len(job.images) for job in jobs)


def test_a_watch_follows_its_file_and_keeps_what_it_has(folder, other, tmp_path) -> None:
    file = tmp_path / "serve.json"
    watch = ModelWatch(file)
    with pytest.raises(FileNotFoundError):
        watch.refresh()
    file.write_text(Pointer(folder=str(folder), engine="torch").to_json())
    assert watch.refresh()
    first = watch.model
    assert not watch.refresh()
    assert watch.model is first
    file.write_text(Pointer(folder=str(tmp_path / "nowhere"), engine="torch").to_json())
    for _ in range(2):  # it may come yet
        with pytest.raises(ManifestError, match="cannot be read"):
            watch.refresh()
    assert watch.model is first
    file.write_text(Pointer(folder=str(other), engine="torch").to_json())
    assert watch.refresh()
    assert watch.model.manifest.version == 4


def test_altered_weights_are_not_served(other) -> None:
    path = other / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ManifestError, match="is not the file of"):
        load(other)


COUNT = """
import os, sys
sys.modules["mlflow"] = sys.modules["ray"] = None
import deploy.serving_app
from deploy.serving_metrics import Metrics
metrics = Metrics()
for version in (1, 2):
    if os.fork() == 0:
        metrics.answered("/predict", 200, 0.1)
        metrics.classified(7)
        metrics.serves("digits", version)
        os._exit(0)
    os.wait()
sys.stdout.buffer.write(metrics.text())
"""


def test_replicas_tell_the_sums_of_all_and_need_neither_mlflow_nor_ray(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COUNT],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert 'pas_serve_requests_total{path="/predict",status="200"} 2.0' in lines
    assert "pas_serve_batch_images_sum 14.0" in lines
    assert 'pas_serve_model_version{model="digits"} 2.0' in lines


def test_a_pointer_is_plain_json(folder) -> None:
    pointer = Pointer(folder="a", engine="onnx", accuracy=0.5)
    assert Pointer(**json.loads(pointer.to_json())) == pointer
