"""A sweep of another task than classification, by the command line, and what is made of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image
from tiny_data import write_domains

pytestmark = pytest.mark.slow

SWEEP = """
name: greys
task: {{name: image_translation, options: {{metric: swd, critic_width: 4}}}}
data: {{name: unpaired, root: {root}, image_size: 32, validation: 0.4}}
supernet: {{name: cyclegan_resnet_6, options: {{width: 0.0625}}}}
budget: {{limits: [0.5]}}
strengths: [10]
trials_per_cell: 2
controls: [uniform]
optimizer: {{name: adamw, learning_rate: 0.002, momentum: 0.5, batch_size: 2}}
pretrain: {{epochs: 1}}
search: {{epochs: 1}}
finetune: {{epochs: 2, recalibration_batches: 1}}
scheduler: {{name: asha, grace_epochs: 1, reduction_factor: 2}}
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory, make_pas):
    """A sweep of generators, of whose metric less is better: its command line and its outcome."""
    folder = tmp_path_factory.mktemp("swept")
    root = write_domains(folder / "data", grain=90, trainA=5, trainB=6, testA=2, testB=3)
    pas = make_pas(folder)
    pas.file.write_text(SWEEP.format(root=root))
    return pas, pas.json("sweep", str(pas.file))


def test_its_scores_are_told_under_their_name(swept):
    pas, outcome = swept
    (control,) = outcome["controls"]
    finished = [t for t in outcome["trials"] if t["status"] == "FINISHED"]
    assert finished
    assert len(outcome["trials"]) == 2
    for one in (*finished, control):
        assert (one["metric"], one["higher_is_better"]) == ("swd", False)
        assert one["swd"] > 0 < one["test_swd"]
        assert one["macs_ratio"] <= 0.5
    assert outcome["supernet_swd"] > 0
    assert min(finished, key=lambda t: t["swd"])["on_front"]
    compared = pas.json("compare", "greys")
    assert compared["supernet_test_swd"] == outcome["supernet_test_swd"]
    assert [t | {"run_id": None} for t in compared["trials"]] == outcome["trials"]
    assert "validation swd" in pas.here("compare", "greys").stdout
    report = pas.file.parent / "report.html"
    assert pas.here("report", "greys", "--out", str(report)).returncode == 0
    assert "validation swd" in report.read_text(encoding="utf-8")


def test_its_runs_hold_curves_and_pictures(swept):
    pas, _ = swept
    client = MlflowClient(f"sqlite:///{pas.home / 'mlflow.db'}")
    trials = pas.json("pareto", "greys")["trials"]
    trial = next(t for t in trials if t["on_front"])
    assert len(client.get_metric_history(trial["run_id"], "epoch_swd")) == 3
    names = {item.path for item in client.list_artifacts(trial["run_id"])}
    assert {f"preview_{phase}.jpg" for phase in ("pretrain", "search", "finetune")} <= names


def test_what_it_makes_of_images_is_drawn(swept, tmp_path):
    pas, outcome = swept
    trial = next(t for t in outcome["trials"] if t["on_front"])
    folder = pas.home / "sweeps" / outcome["sweep_id"] / "trials" / trial["trial_id"]
    image, broken = tmp_path / "an image.png", tmp_path / "broken.png"
    Image.fromarray(np.full((20, 40, 3), 90, np.uint8)).save(image)
    broken.write_bytes(b"no image")
    out = tmp_path / "pictures"
    drawn = pas.here("predict", str(folder), str(image), str(broken), "--out", str(out), "--json")
    assert drawn.returncode == 1
    assert "broken.png" in drawn.stderr
    (line,) = map(json.loads, drawn.stdout.splitlines())
    with Image.open(line["picture"]) as picture:
        assert picture.size == (32, 32)
    refused = pas.here("predict", str(folder), str(image))
    assert refused.returncode == 2
    assert "--out is missing" in refused.stderr


def test_it_is_promoted_by_its_metric_exported_and_drawn_from_the_registry(swept, tmp_path):
    pas, outcome = swept
    kept = pas.here("promote", "greys", "--budget", "0.5", "--model", "greys", "--worst-score", "0")
    assert kept.returncode == 1
    assert "refused by: swd" in kept.stderr
    best = min((t for t in outcome["trials"] if t["status"] == "FINISHED"), key=lambda t: t["swd"])
    done = pas.json("promote", "greys", "--budget", "0.5", "--model", "greys")
    assert (done["version"], done["trial"]["trial_id"]) == (1, best["trial_id"])
    gates = {gate["name"]: gate for gate in done["gates"]}
    assert list(gates) == ["stored", "swd", "budget", "latency", "parity", "robustness"]
    assert gates["swd"]["measured"] == pytest.approx(best["swd"], rel=1e-4)
    again = pas.json("promote", "greys", "--budget", "0.5", "--model", "greys", "--dry-run")
    assert "the champion (version 1) has" in again["gates"][1]["sentence"]
    (move,) = pas.json("history", "greys")["moves"]
    assert (move["metric"], move["swd"]) == ("swd", gates["swd"]["measured"])

    image, out, drawn = tmp_path / "a.png", tmp_path / "export", tmp_path / "drawn"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 32, 3), np.uint8)).save(image)
    exported = pas.json("export", "greys", "--out", str(out))
    assert exported["compared_on"] == "validation images"
    assert exported["parity_errors"].keys() == {"model.onnx", "model.pt2"}
    pictures = []
    for model in ("greys", str(out)):
        folder = drawn / str(len(pictures))
        shown = pas.here("predict", model, str(image), "--out", str(folder), "--json")
        assert shown.returncode == 0, shown.stderr
        pictures.append(np.asarray(Image.open(json.loads(shown.stdout)["picture"])))
    assert pictures[0].shape == (32, 32, 3)
    assert (pictures[0] == pictures[1]).all()
    for refused, words in (
        (("export", "greys", "--out", str(tmp_path / "8"), "--int8"), "int8 is for classification"),
        (("predict", "greys", str(image), "--out", str(drawn), "--engine", "onnx"), "by torch"),
        (("serve", "greys"), "pas serve answers classification alone"),
        (("serve", str(out)), "pas serve answers classification alone"),
    ):
        said = pas.here(*refused)
        assert said.returncode == 2, refused
        assert words in said.stderr
