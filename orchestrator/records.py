"""What is known of one trial; the record every table, plot and command works on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator.errors import UserError

TrialStatus = Literal["RUNNING", "FINISHED", "FAILED", "PRUNED", "KILLED"]

STATUS_NAMES: Mapping[TrialStatus, str] = {
    "FINISHED": "finished",
    "PRUNED": "stopped early",
    "FAILED": "failed",
    "RUNNING": "running",
    "KILLED": "interrupted",
}
"""What people read of a status, in the order in which trials are counted."""

CONTROL_NAMES = {"uniform": "uniform", "supernet": "supernet, trained on"}
"""What tables and pictures call the controls."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """One trial of a sweep, or a control. Results are ``None`` until it has finished.

    Attributes:
        trial_id: unique within the sweep: ``b<budget>-s<strength>-<number>``, or
            ``control-supernet``, ``control-uniform-b<budget>``.
        sweep_id: the sweep's name and hash.
        status: RUNNING, FINISHED, FAILED, PRUNED (stopped early) or KILLED (interrupted).
        control: ``supernet`` or ``uniform``, if it is no trial but a control: never on the front,
            never promoted.
        budget: the limit as written in the sweep file (share of the supernet, or absolute); of
            the supernet as a control, the loosest, which its compute goes by.
        strength: weight of the budget loss; 0 for controls, which have none.
        number: index within its cell, from 0.
        hyperparameters: what Optuna chose.
        micro_batches: parts that each batch was trained in: more than configured where memory ran
            out.
        macs, num_params, activation_bytes: cost of the compact network in deploy form (one image).
        macs_ratio: ``macs`` over the supernet's.
        latency_ms: median time of one image in deploy form, measured on one thread of the worker's
            CPU.
        predicted_latency_ms: by the sweep's latency table, where latency is limited.
        training_macs: MACs that its training took, the supernet's included; see
            :mod:`pas_trainer.compute`.
        saved_macs: MACs of training that stopping it early saved.
        search_seconds, finetune_seconds, control_seconds: wall time on the worker by phase, all
            starts together; see :class:`pas_trainer.TrialResult`. Of a trial that was stopped or
            failed, until its last epoch.
        cpu_seconds, gpu_seconds: what it booked times these seconds.
        price: of that, if ``resources.prices`` are given.
        metric: name of what the sweep's networks are compared by, see
            :class:`pas_trainer.Metric`.
        higher_is_better: which way that goes.
        score: that metric on the validation split; in JSON and MLflow under the metric's name, as
            ``accuracy``.
        test_score: on the test split; ``test_accuracy``.
        metrics: further figures of the task, by name; those on the test split begin with ``test_``.
        widths: open channels by channel group.
        content_hash: of its package, see :func:`deploy.content_hash`.
        error: one sentence, if it failed.
        run_id: MLflow run.
        on_front: no finished trial of the sweep is at least as good in score and cost, and
            better in one.
    """

    trial_id: str
    sweep_id: str
    status: TrialStatus
    budget: float
    strength: float
    number: int
    control: str | None = None
    hyperparameters: Mapping[str, float] = field(default_factory=dict)
    micro_batches: int = 1
    macs: int | None = None
    macs_ratio: float | None = None
    num_params: int | None = None
    activation_bytes: int | None = None
    latency_ms: float | None = None
    predicted_latency_ms: float | None = None
    training_macs: int | None = None
    saved_macs: int | None = None
    search_seconds: float | None = None
    finetune_seconds: float | None = None
    control_seconds: float | None = None
    cpu_seconds: float | None = None
    gpu_seconds: float | None = None
    price: float | None = None
    metric: str = "accuracy"
    higher_is_better: bool = True
    score: float | None = None
    test_score: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    widths: Mapping[str, int] | None = None
    content_hash: str | None = None
    error: str | None = None
    run_id: str | None = None
    on_front: bool = False

    @property
    def seconds(self) -> float | None:
        """Wall time on the worker, all phases together; ``None`` if it is not known."""
        phases = (self.search_seconds, self.finetune_seconds, self.control_seconds)
        known = [seconds for seconds in phases if seconds is not None]
        return sum(known) if known else None

    def cost(self, resource: str) -> float | None:
        """Return the cost in a resource, ``None`` until it is known.

        A latency is the predicted one where the sweep has a table, since that is what its limits
        are on: the same for every worker. Elsewhere it is the measured one.
        """
        if resource == "latency_ms" and self.predicted_latency_ms is not None:
            return self.predicted_latency_ms
        cost: float | None = getattr(self, resource)
        return cost

    @property
    def gain(self) -> float | None:
        """The score, so that more is better whichever way the metric goes."""
        if self.score is None:
            return None
        return self.score if self.higher_is_better else -self.score

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; the scores stand under the metric's name."""
        plain = dataclasses.asdict(self)
        names = {"score": self.metric, "test_score": f"test_{self.metric}"}
        return {names.get(key, key): value for key, value in plain.items()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TrialRecord:
        """Read what :meth:`to_json` gave.

        Raises:
            KeyError, TypeError: it is something else.
        """
        metric = document["metric"]
        names = {metric: "score", f"test_{metric}": "test_score"}
        return cls(**{names.get(key, key): value for key, value in document.items()})


def parse_trial(content: bytes, where: str) -> TrialRecord:
    """Read the record of a trial from a file or an object.

    Args:
        content: of it.
        where: its address, for the sentence.

    Raises:
        UserError: it is damaged.
    """
    try:
        return TrialRecord.from_json(json.loads(content))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{where} is damaged: it does not hold the record of a trial; restore it, or remove it "
            "and run the sweep's file again, which runs the trial anew"
        ) from None


def without_controls(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Return the trials among the records."""
    return [record for record in records if record.control is None]


def controls_among(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Return the controls among the records."""
    return [record for record in records if record.control is not None]
