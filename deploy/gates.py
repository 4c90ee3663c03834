"""The gates of a promotion: what was measured of a candidate, judged one question at a time.

Every gate is a pure function of numbers. All of them are asked, whatever the others say.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

STORED_TOLERANCE = 0.005
"""Accuracy that stored files may differ by from the trial's record: it may have been measured on
another device. Three images are let through however few there are."""
PARITY_TOLERANCE = 1e-4
"""Largest relative error of logits, see :func:`deploy.check_parity`."""
_STORED_IMAGES = 3
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class GateResult:
    """What one gate says.

    Attributes:
        name: ``stored``, ``accuracy``, ``budget``, ``latency``, ``parity`` or ``robustness``.
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
    *, recorded: float, deploy: float, exported: float, num_images: int, changed: str = ""
) -> GateResult:
    """Ask whether the stored files are what the trial has left.

    Args:
        recorded: accuracy in the trial's record.
        deploy, exported: accuracy of the files in deploy form and as an exported program.
        num_images: that these were measured on.
        changed: what else tells that the files are others, if anything does.
    """
    tolerance = max(STORED_TOLERANCE, _STORED_IMAGES / num_images)
    error = max(abs(deploy - recorded), abs(exported - recorded))
    sentence = (
        f"accuracy {deploy:.4f} in deploy form and {exported:.4f} exported, {recorded:.4f} recorded"
    )
    return GateResult(
        name="stored",
        passed=not changed and error <= tolerance + _ROUNDING,
        measured=error,
        required=tolerance,
        sentence=f"{changed}; {sentence}" if changed else sentence,
    )


def accuracy_gate(
    *,
    accuracy: float,
    champion: float | None,
    against: str,
    tolerance: float = 0.0,
    minimum: float | None = None,
    refuses: bool = True,
) -> GateResult:
    """Ask whether the candidate is accurate enough.

    Args:
        accuracy: of the candidate, in [0, 1].
        champion: accuracy of the version it would replace on the same images; ``None`` if there
            is nothing to compare with.
        against: what that version is, or why there is none.
        tolerance: how much less accurate than that it may be.
        minimum: lowest accuracy, whatever the champion has.
        refuses: whether to hold the candidate to the champion; else it is only reported.
    """
    compared = f"{against} has {champion:.4f}" if champion is not None else against
    bounds = [] if minimum is None else [minimum]
    if champion is not None and refuses:
        bounds.append(champion - tolerance)
        compared += f", tolerance {tolerance:g}" if tolerance else ""
    elif champion is not None:
        compared += ", which a challenger need not reach"
    required = max(bounds, default=None)
    return GateResult(
        name="accuracy",
        passed=required is None or accuracy >= required - _ROUNDING,
        measured=accuracy,
        required=required,
        sentence=f"accuracy {accuracy:.4f}; {compared}",
    )


def budget_gate(*, resource: str, cost: float, limit: float | None) -> GateResult:
    """Ask whether the stored network's cost is within the limit asked for, if any is."""
    return GateResult(
        name="budget",
        passed=limit is None or cost <= limit + _ROUNDING,
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


def parity_gate(*, training_error: float, exported_error: float) -> GateResult:
    """Ask whether training form, deploy form and exported program are one function.

    Args:
        training_error: relative logit error of the deploy form against the training form.
        exported_error: the same of the exported program against the deploy form.
    """
    errors = (training_error, exported_error)
    passed = all(error <= PARITY_TOLERANCE for error in errors)  # NaN is not
    return GateResult(
        name="parity",
        passed=passed,
        measured=next((e for e in errors if math.isnan(e)), max(errors)),
        required=PARITY_TOLERANCE,
        sentence=(
            f"logits of the deploy form are off by {training_error:.2g} from the training form's, "
            f"those of the exported program by {exported_error:.2g} from the deploy form's"
        ),
    )


def robustness_gate(*, error: float, faults: Sequence[str], takes_infinity: bool) -> GateResult:
    """Ask whether the exported program answers alike in every batch, and nothing to nonsense.

    Args:
        error: largest relative logit error over the batch sizes tried.
        faults: what else went wrong, a clause each.
        takes_infinity: an infinite pixel gave finite logits. Some networks bound what they read
            (ReLU6), so this is told but not refused.
    """
    infinity = "is classified" if takes_infinity else "gives no finite logits"
    checked = (
        "NaN reaches the logits of its image alone, other shapes are refused, the signature is "
        f"float32; an infinite pixel {infinity}; values outside [0, 1] are the server's to refuse"
    )
    return GateResult(
        name="robustness",
        passed=error <= PARITY_TOLERANCE and not faults,
        measured=error,
        required=PARITY_TOLERANCE,
        sentence="; ".join(
            [f"logits differ by {error:.2g} between batch sizes", *(faults or [checked])]
        ),
    )
