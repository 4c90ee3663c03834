"""Networks whose answers are no classes: held to the gates, exported, loaded, drawn."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import onnxruntime
import pytest
import tiny_trials
import torch
from mlflow import MlflowClient
from PIL import Image
from promoted import load_promoted, promote_package

from deploy import PackageError, deployed_network, load_package, save_package
from deploy.candidate import open_candidate
from deploy.drawing import drawer_of_package
from deploy.export_folder import ExportImages, write_export
from deploy.manifest import verify_folder
from deploy.measuring import measure_candidate, measure_score, sample_of
from deploy.registered import download_example, find_version
from pas_trainer import make_task, run_search, train_supernet

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["unpaired", "outlined"])
def made(request, tmp_path_factory):
    """A searched network as a package, its data, and some of its validation images."""
    root = tmp_path_factory.mktemp(request.param)
    trial = getattr(tiny_trials, request.param)(root / "data")
    train_supernet(tiny_trials.pretraining(trial), root / "supernet")
    result = run_search(trial, root / "supernet")
    save_package(root / "package", result.architecture, result.network, result.training_network)
    task = make_task(trial.task)
    data = task.load_data(trial.data, CPU)
    return SimpleNamespace(
        kind=request.param,
        root=root,
        package=root / "package",
        result=result,
        task=task,
        data=data,
        images=sample_of(task, data),
    )


def batches(made):
    return made.data.validation.eval_batches(2)


@pytest.fixture(scope="module")
def candidate(made):
    with open_candidate(made.package, made.images) as opened:
        yield opened


def test_all_forms_are_measured_by_the_tasks_own_metric(made, candidate):
    found = measure_candidate(candidate, made.data, batches(made), made.images)
    recorded = made.result.score
    assert found.score == pytest.approx(recorded, rel=1e-3, abs=1e-3)
    assert found.exported_score == pytest.approx(recorded, rel=1e-3, abs=1e-3)
    assert max(found.training_error, found.exported_error, found.size_error) < 1e-4
    assert found.faults == ()
    assert found.latency_ms > 0
    other = dataclasses.replace(candidate, training_network=_spoiled(made))
    few = itertools.islice(batches(made), 1)
    assert measure_candidate(other, made.data, few, made.images).training_error > 1e-3
    score = measure_score(candidate.network, made.task, made.data, batches(made))
    assert score == found.score


def test_images_of_other_sizes_are_taken_by_a_detector_alone(made, candidate):
    for height, width in ((40, 64), (64, 33), (20, 90)):
        image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(height))
        if made.kind == "unpaired":
            with pytest.raises(AssertionError, match="Guard failed"):
                candidate.exported(image[None])
            continue
        with torch.inference_mode():
            expected, found = candidate.network([image]), candidate.exported([image])
        assert found[0]["masks"].shape[2:] == (height, width)
        assert made.task.error(expected, found) < 1e-4


def _spoiled(made):
    architecture, network = load_package(made.package, deploy=False)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.1)
    return deployed_network(architecture, network)


@pytest.fixture(scope="module")
def promoted(made):
    uri = f"sqlite:///{made.root / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.create_experiment("e", artifact_location=(made.root / "files").as_uri())
    promote_package(
        client,
        folder=made.package,
        model_name=made.kind,
        run_id=client.create_run(experiment).info.run_id,
        images=made.images,
    )
    return SimpleNamespace(uri=uri, client=client)


def test_a_version_loads_with_plain_mlflow_and_from_its_package(made, promoted, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    loaded = load_promoted(promoted.client, made.kind)
    version = promoted.client.get_model_version_by_alias(made.kind, "champion")
    model = mlflow.pyfunc.load_model(
        promoted.client.get_model_version_download_uri(made.kind, version.version)
    )
    with torch.inference_mode():
        expected = loaded.network(made.images[:1])
    if made.kind == "outlined":
        found = model.predict(made.images[0].numpy())
        found = [{name: torch.from_numpy(values) for name, values in found.items()}]
    else:
        found = torch.from_numpy(model.predict(made.images[:1].numpy()))
    assert made.task.error(expected, found) < 1e-4


def test_an_export_says_what_goes_in_and_what_comes_out(made, promoted, tmp_path):
    version = find_version(promoted.uri, made.kind)
    example = download_example(version, tmp_path / "example")
    images = ExportImages(
        parity=example,
        words="the stored example",
        data="tiny",
        resize="longer" if made.kind == "outlined" else "stretched",
    )
    out = tmp_path / "export"
    formats = ["onnx"] if made.kind == "outlined" else ["onnx", "pt2"]
    manifest, checks = write_export(out, version, made.package, images, formats=formats)
    assert verify_folder(out) == manifest
    assert checks.errors.keys() == {f"model.{name}" for name in formats}
    assert max(checks.errors.values()) < 1e-4
    if made.kind == "outlined":
        with pytest.raises(PackageError, match=r"cannot express; take --format onnx"):
            write_export(tmp_path / "no", version, made.package, images, formats=["pt2"])
        assert not (tmp_path / "no").exists()
    card = (out / "MODEL_CARD.md").read_text()
    names = ["boxes", "labels", "scores", "masks"] if made.kind == "outlined" else ["pictures"]
    assert all(f"`{name}`" in card for name in names)
    session = onnxruntime.InferenceSession(out / "model.onnx")
    assert [given.name for given in session.get_outputs()] == names
    assert str(Path(__file__).parents[2]) not in (out / "model.onnx").read_bytes().decode("latin1")
    pieces = [part.partition("```")[0] for part in card.split("```python\n")[1:]]
    assert len(pieces) == len(formats) + 1
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(out)
        patch.setenv("MLFLOW_TRACKING_URI", promoted.uri)
        for code in pieces:
            exec(code, found)  # noqa: S102 - as a reader of the card would
    if made.kind == "outlined":
        assert found["found"].keys() == set(names)
        assert (found["found"]["boxes"] == found["boxes"]).all()
    else:
        assert found["pictures"].shape == (1, 3, 32, 32)


def test_answers_are_drawn_from_the_package_alone(made, tmp_path):
    path = tmp_path / "an image.png"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    drawer = drawer_of_package(made.package)
    (drawn,) = drawer.draw([path], tmp_path / "out", unreadable=pytest.fail)
    assert drawn.picture.exists()
    json.dumps(drawn.found)
    before = path.read_bytes()
    (again,) = drawer.draw([path], tmp_path, unreadable=pytest.fail)
    assert (again.picture, path.read_bytes()) == (tmp_path / "an image-2.png", before)
    Image.fromarray(pixels).save(tmp_path / "an image.jpg")
    (beside,) = drawer.draw([tmp_path / "an image.jpg"], tmp_path, unreadable=pytest.fail)
    assert (beside.picture, path.read_bytes()) == (tmp_path / "an image-3.png", before)
    if made.kind != "outlined":  # generators see images as they were trained and evaluated
        path = tmp_path / "square.png"
        size = (drawer.architecture.image_size,) * 2
        Image.open(tmp_path / "an image.png").resize(size, Image.Resampling.BICUBIC).save(path)
        (square,) = drawer.draw([path], tmp_path / "out", unreadable=pytest.fail)
        assert square.picture.read_bytes() == drawn.picture.read_bytes()
