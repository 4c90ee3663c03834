"""From the registry to a folder, a bucket and predictions, as a user does it."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from object_stores import files_in
from PIL import Image

from deploy import deployed_network, load_package
from deploy.manifest import verify_folder
from pas_trainer import DataConfig, open_sources

pytestmark = pytest.mark.slow

BLOCKED = ("mlflow", "search_space", "pas_trainer", "deploy", "orchestrator")

ONNX_ALONE = """
import sys
for name in ("torch", *{blocked}):
    sys.modules[name] = None
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
logits = session.run(None, {{"images": np.load(sys.argv[1])}})[0]
np.save(sys.argv[2], logits.argmax(axis=1))
"""

TORCH_ALONE = """
import sys
for name in ("onnx", "onnxruntime", *{blocked}):
    sys.modules[name] = None
import numpy as np, torch
network = torch.export.load("model.pt2").module()
with torch.no_grad():
    np.save(sys.argv[2], network(torch.from_numpy(np.load(sys.argv[1]))).argmax(dim=1).numpy())
"""


@pytest.fixture(scope="module")
def shipped(finished, tmp_path_factory):
    """An export of the best trial of the finished sweep, and its test images as files."""
    root = tmp_path_factory.mktemp("shipped")
    promoted = finished.json("promote", "tiny", "--budget", "0.5", "--model", "shipped")
    told = finished.json("export", "shipped", "--out", str(root / "export"), "--int8")
    test = open_sources(DataConfig(name="digits", validation=0.25)).test
    for i, (pixels, label) in enumerate(zip(test.images, test.labels, strict=True)):
        path = root / "images" / str(label) / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(pixels)[..., 0]).save(path)
    trial = promoted["trial"]
    folder = finished.home / "sweeps" / trial["sweep_id"] / "trials" / trial["trial_id"]
    images = np.stack([np.asarray(i, np.float32).transpose(2, 0, 1) for i in test.images]) / 255
    network = deployed_network(*load_package(folder))
    with torch.inference_mode():
        predicted = network(torch.from_numpy(images)).argmax(dim=1).numpy()
    assert (predicted == test.labels).mean() == pytest.approx(trial["test_accuracy"], abs=1e-9)
    np.save(root / "images.npy", images)
    return SimpleNamespace(
        root=root,
        out=root / "export",
        told=told,
        trial=trial,
        version=promoted["version"],
        predicted=predicted,
        network=network,
    )


@pytest.mark.parametrize("program", [ONNX_ALONE, TORCH_ALONE], ids=["onnx", "pt2"])
def test_an_exported_file_alone_classifies_as_the_trial_did(shipped, program) -> None:
    arguments = [shipped.root / "images.npy", shipped.root / "classes.npy"]
    code = program.format(blocked=BLOCKED)
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, *map(str, arguments)],
        cwd=shipped.out,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(shipped.root / "classes.npy"), shipped.predicted)


def test_the_export_tells_what_it_holds_and_is_known_again(finished, shipped) -> None:
    told = shipped.told
    assert told["version"] == shipped.version
    assert told["written"]
    assert told["compared_on"] == "validation images"
    assert set(told["parity_errors"]) == {"model.onnx", "model.pt2"}
    # The float form's accuracy is the trial's own, measured on all validation images.
    assert told["accuracies"]["model.onnx"] == pytest.approx(shipped.trial["accuracy"], abs=1e-9)
    assert told["accuracies"]["model.int8.onnx"] > 0.9
    assert {f["name"] for f in told["files"]} == verify_folder(shipped.out).names
    again = finished.json("export", "shipped", "--out", str(shipped.out), "--int8")
    assert again == {**{k: told[k] for k in again}, "written": False}
    refused = finished.here("export", "shipped", "--out", str(shipped.out))
    assert refused.returncode == 2
    assert "holds another export" in refused.stderr


def test_the_snippets_of_the_card_are_true(finished, shipped, monkeypatch) -> None:
    card = (shipped.out / "MODEL_CARD.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == 3
    monkeypatch.chdir(shipped.out)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished.home / 'mlflow.db'}")
    for snippet in snippets:
        names: dict[str, object] = {}
        exec(snippet, names)  # noqa: S102 - as a reader of the card would run it
        logits = torch.as_tensor(names["logits"])
        black = torch.from_numpy(np.zeros((1, 1, 8, 8), np.float32))
        with torch.inference_mode():
            assert torch.allclose(logits, shipped.network(black), atol=1e-4)
    assert f"{shipped.trial['sweep_id']}, {shipped.trial['trial_id']}" in card
    assert shipped.trial["run_id"] in card


@pytest.mark.parametrize(
    ("source", "engine"), [("model", "torch"), ("folder", "torch"), ("folder", "onnx")]
)
def test_predictions_on_files_are_those_of_the_evaluation(finished, shipped, source, engine):
    model = {"model": "shipped", "folder": str(shipped.out)}[source]
    done = finished.here(
        "predict", model, str(shipped.root / "images"), "--engine", engine, "--json"
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = {int(re.search(r"(\d+)\.png", line["path"])[1]): line["label"] for line in lines}
    assert [found[i] for i in range(len(shipped.predicted))] == [
        str(label) for label in shipped.predicted
    ]


def test_a_corrupt_image_is_named_and_the_others_are_classified(finished, shipped, tmp_path):
    image = next((shipped.root / "images").rglob("*.png"))
    shutil.copy(image, tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(image.read_bytes()[:30])
    done = finished.here("predict", str(shipped.out), str(tmp_path), "--top", "3", "--csv")
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if "bad.png" in line]
    assert "1 of 2 images could not be read" in done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["path"] for row in rows] == [str(tmp_path / "good.png")] * 3
    assert [set(row) for row in rows] == [{"path", "label", "probability"}] * 3


def test_publish_and_fetch_carry_the_folder_through_a_bucket(
    finished, shipped, object_store, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("PAS_SIGNING_KEY", "a key of this test")
    uri = object_store.upload({}, "models")
    published = finished.json("publish", str(shipped.out), uri)
    assert published["uri"].startswith(f"{uri}/shipped/{shipped.version}-")
    object_store.written.clear()
    again = finished.json("publish", "shipped", uri)  # known by its content: nothing is exported
    assert object_store.written == []
    assert (again["uploaded"], again["latest_moved"]) == ([], False)
    fetched = finished.json("fetch", uri, "--out", str(tmp_path / "got"))
    assert fetched["signature_checked"]
    ours, theirs = files_in(shipped.out), files_in(tmp_path / "got")
    assert theirs.pop("manifest.json") != ours.pop("manifest.json")  # theirs is signed
    assert theirs == ours
    monkeypatch.setenv("PAS_SIGNING_KEY", "another key")
    refused = finished.here("fetch", uri, "--out", str(tmp_path / "other"))
    assert refused.returncode == 2
    assert "not that of PAS_SIGNING_KEY" in refused.stderr
    assert not (tmp_path / "other").exists()


def test_without_the_sweeps_images_the_stored_example_serves(
    make_pas, finished, shipped, tmp_path
) -> None:
    """Another machine, which has the tracking store and nothing else."""
    uri = f"sqlite:///{finished.home / 'mlflow.db'}"
    elsewhere = make_pas(tmp_path)
    told = elsewhere.json(
        *("export", "shipped", "--out", str(tmp_path / "out"), "--format", "pt2"),
        *("--tracking-uri", uri),
    )
    assert told["compared_on"].startswith("the input example stored with the model")
    assert set(told["parity_errors"]) == {"model.pt2"}
    refused = elsewhere.here(
        "export", "shipped", "--out", str(tmp_path / "int8"), "--int8", "--tracking-uri", uri
    )
    assert refused.returncode == 2
    assert "--int8 needs training images" in refused.stderr
    assert not (tmp_path / "int8").exists()
