from __future__ import annotations

import ast
import dataclasses
import re

import pytest
from exported import registered, small_package

from deploy import load_architecture
from deploy.manifest import ManifestFile
from deploy.model_card import Checks, model_card

CHECKS = Checks(
    images="validation images",
    batch_sizes=(1, 2, 33),
    errors={"model.onnx": 1.25e-7},
    accuracies={"model.onnx": 0.75, "model.int8.onnx": 0.5},
    num_validation=20,
)
FILES = [ManifestFile(name="model.onnx", size=7, sha256="ab" * 32)]
TAGS = {
    "pas.budget": "0.5",
    "pas.resource": "macs",
    "pas.cost": "57560",
    "pas.macs": "57560",
    "pas.macs_ratio": "0.49826",
    "pas.accuracy": "0.991666",
    "pas.test_accuracy": "None",
    "pas.sweep_id": "tiny-1",
    "pas.trial_id": "b0.5",
}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return small_package(tmp_path_factory.mktemp("card") / "package")


@pytest.fixture
def card(package) -> str:
    version = registered(package, **TAGS)
    architecture = load_architecture(package)
    return model_card(version, architecture, "centre", "photos | more", CHECKS, FILES)


@pytest.mark.parametrize(
    "line",
    [
        "# digits, version 3",
        "| budget | 0.5 of macs |",
        "| MACs | 57,560, 0.4983 of the supernet's |",
        "| accuracy, validation | 0.9917 |",
        "| accuracy, test | not recorded |",  # the tag says None
        "| parameters | not recorded |",  # there is no tag
        "| sweep, trial | tiny-1, b0.5 |",
        "| MLflow run | run-1 |",
        "| data | photos \\| more |",
        f"| `model.onnx` | 7 bytes, SHA-256 `{'ab' * 32}` |",
        "| `model.onnx` | 1.2e-07 |",
        "| `model.int8.onnx` | 0.5000 |",
        "Accuracy on 20 validation images:",
    ],
)
def test_the_card_says(card: str, line: str) -> None:
    assert line in card.splitlines()


def test_the_card_says_how_images_are_prepared(card: str) -> None:
    assert "the shorter side is brought to 9 pixels" in card  # 8 * 256 / 224


def test_forms_that_are_not_there_are_not_explained(package, card: str) -> None:
    assert "onnxruntime.InferenceSession" in card
    assert "torch.export.load" not in card
    none = dataclasses.replace(CHECKS, accuracies={}, num_validation=0)
    plain = model_card(registered(package), load_architecture(package), "whole", "", none, [])
    assert "InferenceSession" not in plain
    assert "Accuracy on" not in plain


@pytest.mark.parametrize("name", ["digits", 'my "best" net', "größer {1} 'é'", "100 %"])
def test_the_snippets_are_python_whatever_the_model_is_called(package, name) -> None:
    version = dataclasses.replace(registered(package), model=name)
    files = [dataclasses.replace(FILES[0], name=name) for name in ("model.onnx", "model.pt2")]
    card = model_card(version, load_architecture(package), "whole", "", CHECKS, files)
    snippets = [ast.parse(code) for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL)]
    assert len(snippets) == 3
    texts = {n.value for code in snippets for n in ast.walk(code) if isinstance(n, ast.Constant)}
    assert f"models:/{name}/3" in texts
