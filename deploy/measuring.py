"""What is measured of a candidate, for the gates to go by."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deploy.candidate import Candidate
from deploy.latency import median_pass_ms
from deploy.parity import PARITY_TOLERANCE, Form, eval_batch, parts_of, repeated
from pas_trainer import Judge, Task, TaskData, largest_error


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurements:
    """What the gates go by; see :mod:`deploy.gates` for the errors and faults.

    Attributes:
        num_images: images that the scores are measured on.
        score: of the deploy form, by the task's metric.
        exported_score: of the exported form.
        training_error, exported_error: relative errors of the forms' answers.
        size_error: the same between batch sizes of the exported program; of a form for one image,
            on images of other sizes.
        faults: what the exported form does with input that it should not take.
        takes_infinity: an infinite pixel gave finite answers.
        latency_ms: median time of one image on one CPU thread.
    """

    num_images: int
    score: float
    exported_score: float
    training_error: float
    exported_error: float
    size_error: float
    faults: tuple[str, ...]
    takes_infinity: bool
    latency_ms: float


FEW = 8
"""Images that a form for one image is compared on, where not all are."""


def sample_of(task: Task, data: TaskData) -> Any:
    """Return some plain validation images, to compare forms on."""
    size = FEW if task.form == "onnx" else eval_batch(task)
    images, _ = task.plain(next(data.validation.eval_batches(size)))
    return images


@torch.inference_mode()
def measure_score(form: Form, task: Task, data: TaskData, batches: Iterable[Any]) -> float:
    """Return what a form is worth by its task's metric.

    Args:
        form: takes plain images.
        task: what it is for.
        data: what the batches are of.
        batches: of a split, at least one.
    """
    judge = _judge(task, data)
    for batch in batches:
        images, targets = task.plain(batch)
        judge.update(form(images), targets)
    return task.metric.check_figures(judge.compute())[task.metric.name]


@torch.inference_mode()
def measure_candidate(
    candidate: Candidate, data: TaskData, batches: Iterable[Any], images: Any
) -> Measurements:
    """Measure all that the gates ask for, the scores on every image of ``batches``.

    Args:
        candidate: in all its forms.
        data: what the batches are of.
        batches: of a split, at least one.
        images: plain ones, for what does not need all of them.
    """
    task, total, exported_errors = candidate.task, 0, []
    judges = _judge(task, data), _judge(task, data)
    for batch in batches:
        inputs, targets = task.plain(batch)
        answers = candidate.network(inputs), candidate.exported(inputs)
        for judge, given in zip(judges, answers, strict=True):
            judge.update(given, targets)
        exported_errors.append(task.error(*answers))
        total += len(inputs)
    score, exported_score = (
        task.metric.check_figures(judge.compute())[task.metric.name] for judge in judges
    )
    training_error = largest_error(
        task.error(candidate.training_network(part), candidate.network(part))
        for part in parts_of(images, eval_batch(task))
    )
    faults, takes_infinity = _taken(candidate, images), False
    if task.form == "onnx":
        size_error = _image_size_error(candidate, images)
        if not any(len(found["scores"]) for found in candidate.exported(images)):
            faults.append(f"nothing is found on {len(images)} images, so no answers were compared")
    else:
        size_error = _batch_size_error(candidate, images)
        more, takes_infinity = _faults(candidate, images)
        faults = more + faults
    return Measurements(
        num_images=total,
        score=score,
        exported_score=exported_score,
        training_error=training_error,
        exported_error=largest_error(exported_errors),
        size_error=size_error,
        faults=tuple(faults),
        takes_infinity=takes_infinity,
        latency_ms=median_pass_ms(candidate.network, images[:1]),
    )


def _judge(task: Task, data: TaskData) -> Judge:
    return task.judge(data, torch.device("cpu"))


def _batch_size_error(candidate: Candidate, images: Tensor) -> float:
    """Error of the exported program in batches of 1, 2 and a large odd number of images."""
    chunk = eval_batch(candidate.task)
    odd = 2 * chunk + 1
    many = repeated(images, odd)
    expected = torch.cat([candidate.network(part) for part in parts_of(many, chunk)])
    errors = []
    for size in (1, 2, odd):
        try:
            found = candidate.exported(many[:size])
        except (AssertionError, RuntimeError):  # a guard: it was exported for one size of batches
            return math.inf
        errors.append(candidate.task.error(expected[:size], found))
    return largest_error(errors)


def _image_size_error(candidate: Candidate, images: list[Tensor]) -> float:
    """Error of the exported form on what is left of an image without a third of either side."""
    _, height, width = images[0].shape
    others = images[0][:, : -(height // 3)], images[0][:, :, : -(width // 3)]
    return largest_error(
        candidate.task.error(candidate.network([other]), candidate.exported([other]))
        for other in others
    )


def _faults(candidate: Candidate, images: Tensor) -> tuple[list[str], bool]:
    """Return what goes wrong with pixels that are none, and whether infinity is answered."""
    faults = []
    three = repeated(images, 3)
    clean = candidate.exported(three)
    answers = candidate.exported(_spoiled(three, float("nan")))
    lost = answers[1].isnan()
    # A pixel decides on all logits, but maybe not on every pixel of another picture.
    if not bool(lost.all() if answers.ndim == 2 else lost.any()):
        faults.append(f"a NaN pixel does not reach the {candidate.task.answers} of its image")
    if not candidate.task.error(clean[[0, 2]], answers[[0, 2]]) <= PARITY_TOLERANCE:
        faults.append("a NaN pixel changes other images of its batch")
    infinite = candidate.exported(_spoiled(three, float("inf")))[1]
    return faults, bool(infinite.isfinite().all())


def _taken(candidate: Candidate, images: Any) -> list[str]:
    """Return what the exported form, or its signature, takes that it should not."""
    faults = []
    wrong = {"number of channels": [torch.cat([image, image]) for image in images[:3]]}
    shape: tuple[int, ...] = (len(images[0]), -1, -1)
    if isinstance(images, Tensor):
        wrong = {"height": [image[:, 1:] for image in images[:3]]} | wrong
        shape = (-1, *images.shape[1:])
    for what, odd in wrong.items():
        if _is_taken(candidate.exported, torch.stack(odd) if isinstance(images, Tensor) else odd):
            faults.append(f"images of another {what} are answered")
    assert candidate.model.signature is not None
    (taken,) = candidate.model.signature.inputs.inputs
    if (taken.type, taken.shape) != (np.dtype(np.float32), shape):
        faults.append(f"the signature takes {taken.type} {taken.shape}")
    return faults


def _spoiled(images: Tensor, value: float) -> Tensor:
    """Return images of which the second has a pixel of that value, in the corner.

    Every network reads the corner, also one that skips pixels (1x1 with a stride).
    """
    spoiled = images.clone()
    spoiled[1, :, 0, 0] = value
    return spoiled


def _is_taken(form: Form, images: Any) -> bool:
    try:
        form(images)
    except Exception:  # a refusal: torch.export's guards and ONNX Runtime have each their own
        return False
    return True
