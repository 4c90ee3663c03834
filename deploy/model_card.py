"""``MODEL_CARD.md``: what a network is, what it costs, where it comes from, how it is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploy.manifest import ManifestFile
from pas_trainer import Resize
from search_space import Architecture

if TYPE_CHECKING:
    from deploy.registered import RegisteredVersion

CARD_FILE = "MODEL_CARD.md"

_RESIZE_WORDS: Mapping[Resize, str] = {
    "whole": "the shorter side is brought to {size} pixels (bilinear), the middle of the longer "
    "one kept",
    "centre": "the shorter side is brought to {larger} pixels (bilinear), the middle {size} x "
    "{size} kept",
}

_ONNX = """\
ONNX Runtime:

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
images = np.zeros(({shape}), np.float32)
logits = session.run(["logits"], {{"images": images}})[0]
```
"""

_TORCH = """\
torch (`torch.export.load` trusts the file: check who wrote it first):

```python
import torch

network = torch.export.load("model.pt2").module()
images = torch.zeros({shape})
logits = network(images)
```
"""

_MLFLOW = """\
MLflow, with `MLFLOW_TRACKING_URI` set to the store that this version is registered in:

```python
import mlflow
import numpy as np

network = mlflow.pyfunc.load_model("models:/{model}/{version}")
images = np.zeros(({shape}), np.float32)
logits = network.predict(images)
```
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checks:
    """What was checked of the exported files.

    Attributes:
        images: which images they were compared on, in words.
        batch_sizes: in which batches.
        errors: by file, the largest difference of its logits to torch's, relative to
            ``max(1, largest absolute logit)``.
        accuracies: by file, in [0, 1] on validation images; empty without int8.
        num_validation: how many of these.
    """

    images: str
    batch_sizes: Sequence[int]
    errors: Mapping[str, float]
    accuracies: Mapping[str, float]
    num_validation: int


def model_card(
    registered: RegisteredVersion,
    architecture: Architecture,
    resize: Resize,
    data: str,
    checks: Checks,
    files: Sequence[ManifestFile],
) -> str:
    """Return the card as Markdown.

    Args:
        registered: the version.
        architecture: of the network.
        resize: how images are prepared for it.
        data: what it was trained on, in words.
        checks: what was checked.
        files: all others of the folder.
    """
    size = architecture.image_size
    names = {file.name for file in files}
    how = _RESIZE_WORDS[resize].format(size=size, larger=round(size * 256 / 224))
    colours = "RGB" if architecture.in_channels == 3 else "grey"
    shape = f"1, {architecture.in_channels}, {size}, {size}"
    loading = [_ONNX.format(shape=shape)] * ("model.onnx" in names)
    loading += [_TORCH.format(shape=shape)] * ("model.pt2" in names)
    loading += [_MLFLOW.format(shape=shape, model=registered.model, version=registered.version)]
    parts = [
        f"# {registered.model}, version {registered.version}\n",
        _table(_facts(registered, architecture, data)),
        "## Input and output\n",
        f"`images`: float32 (N, {architecture.in_channels}, {size}, {size}), any N, {colours} in "
        f"[0, 1]; {how}. Normalisation is inside. `logits`: float32 (N, "
        f"{len(architecture.classes)}), in this order:\n",
        f"```json\n{json.dumps(list(architecture.classes), ensure_ascii=False)}\n```\n",
        "## How to load it\n",
        *loading,
        "## Checks\n",
        _checked(checks),
        "## Files\n",
        _table([(f"`{f.name}`", f"{f.size} bytes, SHA-256 `{f.sha256}`") for f in files]),
    ]
    return "\n".join(parts)


def _facts(
    registered: RegisteredVersion, architecture: Architecture, data: str
) -> list[tuple[str, str]]:
    """Return what the promotion has told the registry, as far as it has."""
    tags = {key.removeprefix("pas."): value for key, value in registered.tags.items()}

    def told(text: str, *names: str, kind: Callable[[str], object] = str) -> str:
        try:
            return text.format(**{name: kind(tags[name]) for name in names})
        except (KeyError, ValueError):  # float("None"): the trial has no such figure
            return "not recorded"

    def figures(text: str, *names: str) -> str:
        return told(text, *names, kind=float)

    return [
        ("budget", told("{budget} of {resource}", "budget", "resource")),
        ("strength", figures("{strength:g}", "strength")),
        ("cost", told("{cost} {resource}", "cost", "resource")),
        ("MACs", figures("{macs:,.0f}, {macs_ratio:.4f} of the supernet's", "macs", "macs_ratio")),
        ("parameters", figures("{num_params:,.0f}", "num_params")),
        ("accuracy, validation", figures("{accuracy:.4f}", "accuracy")),
        ("accuracy, test", figures("{test_accuracy:.4f}", "test_accuracy")),
        (
            "latency",
            figures(
                "{latency_ms:.3f} ms: one image, one CPU thread of the trial's worker", "latency_ms"
            ),
        ),
        ("classes", str(len(architecture.classes))),
        ("data", data),
        ("supernet", architecture.supernet),
        ("sweep, trial", told("{sweep_id}, {trial_id}", "sweep_id", "trial_id")),
        ("MLflow run", registered.run_id),
        ("content hash", registered.content_hash),
    ]


def _checked(checks: Checks) -> str:
    sizes = ", ".join(str(size) for size in checks.batch_sizes)
    lines = [
        f"Logits compared with those of the torch network, on {checks.images}, in batches of "
        f"{sizes}; largest difference, relative to max(1, largest absolute logit):\n",
        _table([(f"`{name}`", f"{error:.1e}") for name, error in checks.errors.items()]),
    ]
    if checks.accuracies:
        lines += [
            f"Accuracy on {checks.num_validation} validation images:\n",
            _table([(f"`{name}`", f"{value:.4f}") for name, value in checks.accuracies.items()]),
        ]
    return "\n".join(lines)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    lines = [f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines, ""])
