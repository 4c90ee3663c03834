"""The gates of a promotion: what was measured of a candidate, judged one question at a time.

Every gate is a pure function of numbers. All of them are asked, whatever the others say.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deploy.parity import PARITY_TOLERANCE
from pas_trainer import ACCURACY, Metric, largest_error
from search_space import keeps_limit

STORED_TOLERANCE = 0.005
"""Accuracy that stored files may differ by from the trial's record: it may have been measured on
another device. Three images are let through however few there are."""
STORED_SHARE = 0.01
"""The same of other scores, as a share of what was recorded, if that is more."""
_STORED_IMAGES = 3
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class GateResult:
    """What one gate says.

    Attributes:
        name: ``stored``, that of the metric, ``budget``, ``latency``, ``parity`` or ``robustness``.
        passed: whether the candidate may pass.
        measured: the number it was judged by; ``None`` if it could not be measured.
        required: the bound it was held against; ``None``: reported without one.
        sentence: what was found.
    """

    name: str
    passed: bool
    measured: float | None
    required: float | None
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; JSON has no NaN and no infinity."""
        finite = self.measured is not None and math.isfinite(self.measured)
        return dataclasses.asdict(self) | {"measured": self.measured if finite else None}


def unreadable(reason: str) -> GateResult:
    """Return what the stored gate says of files that are no package; nothing else can be asked."""
    return GateResult(
        name="stored",
        passed=False,
        measured=None,
        required=None,
        sentence=f"the stored files cannot be used: {reason}",
    )


def stored_gate(
    *,
    metric: str,
    recorded: float,
    deploy: float,
    exported: float,
    num_images: int,
    changed: str = "",
) -> GateResult:
    """Ask whether the stored files are what the trial has left.

    Args:
        metric: name of the score.
        recorded: score in the trial's record.
        deploy, exported: score of the files in deploy form and as they are exported.
        num_images: that these were measured on.
        changed: what else tells that the files are others, if anything does.
    """
    if metric == ACCURACY.name:
        tolerance = max(STORED_TOLERANCE, _STORED_IMAGES / num_images)
    else:
        tolerance = max(STORED_TOLERANCE, STORED_SHARE * abs(recorded))
    errors = (abs(deploy - recorded), abs(exported - recorded))
    sentence = (
        f"{metric} {deploy:.4f} in deploy form and {exported:.4f} exported, {recorded:.4f} recorded"
    )
    return GateResult(
        name="stored",
        passed=not changed and all(error <= tolerance + _ROUNDING for error in errors),
        measured=largest_error(errors),
        required=tolerance,
        sentence=f"{changed}; {sentence}" if changed else sentence,
    )


def score_gate(
    *,
    metric: Metric,
    score: float,
    champion: float | None,
    against: str,
    tolerance: float = 0.0,
    worst: float | None = None,
    refuses: bool = True,
) -> GateResult:
    """Ask whether the candidate is good enough.

    Args:
        metric: what is measured; names the gate.
        score: of the candidate.
        champion: score of the version it would replace on the same images; ``None`` if there
            is nothing to compare with.
        against: what that version is, or why there is none.
        tolerance: how much worse than that it may be.
        worst: score it must reach, whatever the champion has.
        refuses: whether to hold the candidate to the champion; else it is only reported.
    """
    sign = 1 if metric.higher_is_better else -1
    compared = f"{against} has {champion:.4f}" if champion is not None else against
    bounds = [] if worst is None else [sign * worst]
    if champion is not None and refuses:
        bounds.append(sign * champion - tolerance)
        compared += f", tolerance {tolerance:g}" if tolerance else ""
    elif champion is not None:
        compared += ", which a challenger need not reach"
    required = max(bounds, default=None)
    return GateResult(
        name=metric.name,
        passed=required is None or sign * score >= required - _ROUNDING,
        measured=score,
        required=None if required is None else sign * required,
        sentence=f"{metric.name} {score:.4f}; {compared}",
    )


def budget_gate(*, resource: str, cost: float, limit: float | None) -> GateResult:
    """Ask whether the stored network's cost is within the limit asked for, if any is."""
    return GateResult(
        name="budget",
        passed=limit is None or keeps_limit(resource, cost, limit),
        measured=cost,
        required=limit,
        sentence=f"{cost:.12g} {resource} counted of the stored network",
    )


def latency_gate(*, latency_ms: float, limit_ms: float | None) -> GateResult:
    """Ask whether one image on one CPU thread of this machine takes as little time as asked for."""
    return GateResult(
        name="latency",
        passed=limit_ms is None or latency_ms <= limit_ms,
        measured=latency_ms,
        required=limit_ms,
        sentence=f"{latency_ms:.3g} ms (median) for one image on one CPU thread here",
    )


def parity_gate(*, answers: str, training_error: float, exported_error: float) -> GateResult:
    """Ask whether training form, deploy form and exported form are one function.

    Args:
        answers: what the forms return, in a word.
        training_error: relative error of the deploy form's answers against the training form's.
        exported_error: the same of the exported form against the deploy form.
    """
    errors = (training_error, exported_error)
    passed = all(error <= PARITY_TOLERANCE for error in errors)  # NaN is not
    return GateResult(
        name="parity",
        passed=passed,
        measured=largest_error(errors),
        required=PARITY_TOLERANCE,
        sentence=(
            f"{answers} of the deploy form are off by {training_error:.2g} from the training "
            f"form's, those of the exported form by {exported_error:.2g} from the deploy form's"
        ),
    )


def robustness_gate(
    *,
    answers: str,
    one_image: bool,
    error: float,
    faults: Sequence[str],
    takes_infinity: bool,
) -> GateResult:
    """Ask whether the exported form answers alike whatever the size, and nothing to nonsense.

    Args:
        answers: what it returns, in a word.
        one_image: it takes one image of any size, not batches of a fixed size.
        error: largest relative error of answers over the sizes tried.
        faults: what else went wrong, a clause each.
        takes_infinity: an infinite pixel gave finite answers. Some networks bound what they read
            (ReLU6), so this is told but not refused.
    """
    infinity = "is answered" if takes_infinity else f"gives no finite {answers}"
    checked = "other numbers of channels are refused, the signature is float32"
    if not one_image:
        checked = (
            f"NaN reaches the {answers} of its image alone, other shapes are refused, the "
            f"signature is float32; an infinite pixel {infinity}"
        )
    checked += "; values outside [0, 1] are the server's to refuse"
    sizes = "on images of other sizes" if one_image else "between batch sizes"
    return GateResult(
        name="robustness",
        passed=error <= PARITY_TOLERANCE and not faults,
        measured=error,
        required=PARITY_TOLERANCE,
        sentence="; ".join([f"{answers} differ by {error:.2g} {sizes}", *(faults or [checked])]),
    )
