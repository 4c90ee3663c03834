"""What leaves the registry needs none of our code: shown in two fresh virtual environments.

One has MLflow and torch, the other ONNX Runtime and numpy, each with what it requires itself and
nothing else. There a promoted model classifies the test images of its sweep: by
``mlflow.pyfunc.load_model("models:/NAME@champion")``, and from the file of ``pas export``. The
images are prepared here, once, and handed over as an array; the classes are compared with those
of the trial's own network.

    pas sweep cifar10.yaml && pas promote cifar10 --budget 0.5 --model cifar
    python benchmarks/fresh_environments.py cifar            # downloads torch: gigabytes
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from deploy import deployed_network, load_package
from orchestrator.home import Home
from orchestrator.loading import parse_recorded
from orchestrator.shipping import export
from orchestrator.wanted import Wanted
from pas_trainer import open_sources, prepare_images, resize_of

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "fresh_environments.json"
_BATCH = 500

NOT_OURS = """
import importlib.util, sys
import numpy as np
for name in ("search_space", "pas_trainer", "deploy", "orchestrator"):
    assert importlib.util.find_spec(name) is None, f"{name} can be imported"
"""
MLFLOW = (
    NOT_OURS
    + """
import mlflow
store, model, images, classes, batch = sys.argv[1:]
mlflow.set_tracking_uri(store)
mlflow.set_registry_uri(store)
network = mlflow.pyfunc.load_model(model)
every, batch = np.load(images), int(batch)
parts = [network.predict(every[i : i + batch]) for i in range(0, len(every), batch)]
np.save(classes, np.concatenate(parts).argmax(axis=1))
"""
)
ONNX = (
    NOT_OURS
    + """
import onnxruntime
file, images, classes, batch = sys.argv[1:]
session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
every, batch = np.load(images), int(batch)
starts = range(0, len(every), batch)
parts = [session.run(None, {"images": every[i : i + batch]})[0] for i in starts]
np.save(classes, np.concatenate(parts).argmax(axis=1))
"""
)


@dataclass(frozen=True)
class Expected:
    """Test images as they are evaluated, float32 (N, C, H, W), labels, and the trial's classes."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: NDArray[np.int64]
    test_accuracy: float


def main() -> int:
    """Compare, print a table, write the figures; 1 if a single class differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "model",
        nargs="?",
        default="digits",
        help="registered model of this PAS_HOME, whose sweep ran there; default: the demo's",
    )
    parser.add_argument("--alias", default="champion")
    parser.add_argument("--images", type=int, help="so many test images, evenly spread; else all")
    options = parser.parse_args()
    home, wanted = Home.from_environment(), Wanted(model=options.model, alias=options.alias)
    found = wanted.find()
    expected = _expected(home, dict(found.tags), options.images)
    console, rows = Console(), {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.save(folder / "images.npy", expected.images)
        export(wanted, folder / "export", formats=["onnx"])
        ways = {
            "onnxruntime": (
                ["onnxruntime", "numpy"],
                ONNX,
                [str(folder / "export" / "model.onnx")],
            ),
            "mlflow.pyfunc": (
                ["mlflow", "torch"],
                MLFLOW,
                [home.mlflow_uri, f"models:/{options.model}@{options.alias}"],
            ),
        }
        for name, (packages, program, arguments) in ways.items():
            with console.status(f"{name}: {', '.join(packages)}"):
                rows[name] = _row(folder / name, packages, program, arguments, expected)
    _show(console, expected, rows)
    document = {
        "model": options.model,
        "version": found.version,
        "images": len(expected.labels),
        "trial_test_accuracy": expected.test_accuracy,
        "accuracy_on_these": float((expected.classes == expected.labels).mean()),
        "ways": rows,
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    return int(any(row["equal"] != len(expected.labels) for row in rows.values()))


def _expected(home: Home, tags: dict[str, str], count: int | None) -> Expected:
    """Return test images of the model's sweep, and what the trial's own files make of them."""
    sweep_id, trial_id = tags["pas.sweep_id"], tags["pas.trial_id"]
    recorded = json.loads((home.sweep(sweep_id) / "sweep.json").read_text())
    config = parse_recorded(recorded["config"], sweep_id).data
    sources = open_sources(config)
    test = sources.test
    if count is not None and count < len(test):
        test = test.subset([i * len(test) // count for i in range(count)])
    way = resize_of(sources, config)
    pixels = prepare_images(test.images, sources.image_size, sources.channels, way)
    images = pixels.float() / 255
    network = deployed_network(*load_package(home.trial(sweep_id, trial_id)))
    with torch.inference_mode():
        classes = torch.cat([network(part).argmax(dim=1) for part in images.split(_BATCH)])  # type: ignore[no-untyped-call]
    return Expected(
        images.numpy(), np.asarray(test.labels), classes.numpy(), float(tags["pas.test_accuracy"])
    )


def _row(
    folder: Path, packages: list[str], program: str, arguments: list[str], expected: Expected
) -> dict[str, Any]:
    """Make an environment, classify in it, and compare."""
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    subprocess.run(
        [*pip, "install", "--quiet", "--no-compile", *constraints, *packages], check=True
    )
    listed = subprocess.run([*pip, "list", "--format=json"], check=True, capture_output=True)
    versions = {one["name"].lower(): one["version"] for one in json.loads(listed.stdout)}
    classes = folder / "classes.npy"
    everything = [*arguments, folder.parent / "images.npy", classes, _BATCH]
    kept = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
    subprocess.run(
        [python, "-I", "-c", program, *map(str, everything)],
        cwd=folder,
        env={**kept, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        check=True,
    )
    found = np.load(classes)
    return {
        "installed": {name: versions[name] for name in packages},
        "packages": len(versions),
        "equal": int((found == expected.classes).sum()),
        "accuracy": float((found == expected.labels).mean()),
    }


def _show(console: Console, expected: Expected, rows: dict[str, Any]) -> None:
    total = len(expected.labels)
    table = Table("way", "installed", "packages in all", "classes as the trial's", "accuracy")
    for name, row in rows.items():
        installed = ", ".join(f"{key} {value}" for key, value in row["installed"].items())
        equal = f"{row['equal']} of {total}"
        table.add_row(name, installed, str(row["packages"]), equal, f"{row['accuracy']:.4f}")
    console.print(table)
    console.print(f"the trial on all test images: {expected.test_accuracy:.4f}")


if __name__ == "__main__":
    sys.exit(main())
