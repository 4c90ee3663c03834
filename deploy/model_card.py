"""``MODEL_CARD.md``: what a network is, what it costs, where it comes from, how it is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploy.manifest import ManifestFile, Preparation
from deploy.onnx_export import IMAGE, INPUT, OBJECTS
from pas_trainer import Classification, task_of
from search_space import Architecture

if TYPE_CHECKING:
    from deploy.registered import RegisteredVersion

CARD_FILE = "MODEL_CARD.md"

_RESIZE_WORDS: Mapping[Preparation, str] = {
    "whole": "the shorter side is brought to {size} pixels (bilinear), the middle of the longer "
    "one kept",
    "centre": "the shorter side is brought to {larger} pixels (bilinear), the middle {size} x "
    "{size} kept",
    "longer": "the longer side is brought to {size} pixels (bilinear)",
    "stretched": "stretched to {size} x {size} pixels (bicubic)",
}

_ONNX = """\
ONNX Runtime:

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
{given} = np.zeros(({shape}), np.float32)
{answers} = session.run(None, {{"{given}": {given}}}){first}
```
"""

_TORCH = """\
torch (`torch.export.load` trusts the file: check who wrote it first):

```python
import torch

network = torch.export.load("model.pt2").module()
images = torch.zeros({shape})
{answers} = network(images)
```
"""

_MLFLOW = """\
MLflow, with `MLFLOW_TRACKING_URI` set to the store that this version is registered in:

```python
import mlflow
import numpy as np

network = mlflow.pyfunc.load_model({address})
{given} = np.zeros(({shape}), np.float32)
{predicted} = network.predict({given})
```
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checks:
    """What was checked of the exported files.

    Attributes:
        images: which images they were compared on, in words.
        batch_sizes: in which batches.
        errors: by file, the largest difference of its answers to torch's, relative, see
            :meth:`pas_trainer.Task.error`.
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
    resize: Preparation,
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
    how = f"; {_RESIZE_WORDS[resize]}".format(size=size, larger=round(size * 256 / 224))
    if architecture.task.startswith("import:"):  # whose images only its own code knows
        how = ""
    terms = _terms(architecture)
    loading = [_ONNX.format(**terms)] * ("model.onnx" in names)
    loading += [_TORCH.format(**terms)] * ("model.pt2" in names)
    address = json.dumps(f"models:/{registered.model}/{registered.version}", ensure_ascii=False)
    loading += [_MLFLOW.format(**terms, address=address)]
    parts = [
        f"# {registered.model}, version {registered.version}\n",
        _table(_facts(registered, architecture, data)),
        "## Input and output\n",
        f"{_input(architecture)} in [0, 1]{how}. Normalisation is inside. "
        f"{_output(architecture)}\n",
        "## How to load it\n",
        *loading,
        "## Checks\n",
        _checked(checks, architecture),
        "## Files\n",
        _table([(f"`{f.name}`", f"{f.size} bytes, SHA-256 `{f.sha256}`") for f in files]),
    ]
    return "\n".join(parts)


def _terms(architecture: Architecture) -> dict[str, str]:
    """Return what the lines on loading name."""
    size, task = architecture.image_size, task_of(architecture)
    one = task.form == "onnx"
    return {
        "given": IMAGE if one else INPUT,
        "shape": f"{'' if one else '1, '}{architecture.in_channels}, {size}, {size}",
        "answers": ", ".join(OBJECTS) if one else task.answers,
        "predicted": "found" if one else task.answers,  # MLflow gives several outputs by name
        "first": "" if one else "[0]",
    }


def _input(architecture: Architecture) -> str:
    channels, size = architecture.in_channels, architecture.image_size
    colours = "RGB" if channels == 3 else "grey"
    if task_of(architecture).form == "onnx":
        return f"`{IMAGE}`: float32 ({channels}, h, w), one image of any size, {colours}"
    return f"`{INPUT}`: float32 (N, {channels}, {size}, {size}), any N, {colours}"


def _output(architecture: Architecture) -> str:
    """Return what comes out, in words, and the names of classes where there are any."""
    task, classes = task_of(architecture), list(architecture.classes)
    named = f"\n\n```json\n{json.dumps(classes, ensure_ascii=False)}\n```"
    if task.form == "onnx":
        return (
            "`boxes`: float32 (n, 4) of n objects, left, top, right, bottom in pixels of the "
            "image; `labels`: int64 (n,), counted from 1 in the order below; `scores`: float32 "
            "(n,), the best first; `masks`: float32 (n, 1, h, w), the object where above 0.5."
            f"{named}"
        )
    if isinstance(task, Classification):
        return f"`{task.answers}`: float32 (N, {len(classes)}), in this order:{named}"
    if architecture.task == "image_translation":
        return f"`{task.answers}`: such images, of the same size."
    return f"`{task.answers}`: what the task `{architecture.task}` is about."


def _facts(
    registered: RegisteredVersion, architecture: Architecture, data: str
) -> list[tuple[str, str]]:
    """Return what the promotion has told the registry, as far as it has."""
    tags = {key.removeprefix("pas."): value for key, value in registered.tags.items()}
    metric = registered.metric

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
        ("task", architecture.task),
        (f"{metric}, validation", figures(f"{{{metric}:.4f}}", metric)),
        (f"{metric}, test", figures(f"{{test_{metric}:.4f}}", f"test_{metric}")),
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


def _checked(checks: Checks, architecture: Architecture) -> str:
    sizes = ", ".join(str(size) for size in checks.batch_sizes)
    error = "relative to max(1, largest absolute value)"
    if task_of(architecture).form == "onnx":
        error = (
            "of boxes (relative to the largest coordinate), scores and masks (on average), of the "
            "objects with at least half of an image's best score"
        )
    lines = [
        f"Answers compared with those of the torch network, on {checks.images}, in batches of "
        f"{sizes}; largest difference, {error}:\n",
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
