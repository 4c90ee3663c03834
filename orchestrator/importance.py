"""How much each hyper-parameter mattered in a sweep, by Optuna's fANOVA on what is recorded.

Optuna's studies themselves are not needed: MLflow has what went into them, wherever they are.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import optuna
from numpy.typing import ArrayLike, NDArray
from optuna.distributions import FloatDistribution

from orchestrator.cells import Cell
from orchestrator.records import TrialRecord, without_controls
from search_space import FloatRange

FEWEST = 20
"""Trials, below which importances are noise: of two hyper-parameters, one that decides alone gets
88 to 95 % with 24 trials in two cells, 18 to 88 % with 8 (eight draws each)."""

_MOST = 100  # fANOVA takes time by the square of the trials; more of them hardly change its result
_SEED = 0  # of the forest, and of the draw where there are more trials


@dataclass(frozen=True, kw_only=True, slots=True)
class Importance:
    """How much each hyper-parameter mattered.

    Attributes:
        shares: of what the hyper-parameters explain, by name, the largest first; they add up to 1.
            Empty if nothing can be said.
        num_trials, num_cells: which it goes by.
        reason: why nothing can be said, one sentence.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    num_trials: int = 0
    num_cells: int = 0
    reason: str = ""


def importance_of(records: Iterable[TrialRecord], ranges: Mapping[str, FloatRange]) -> Importance:
    """Return the importance of hyper-parameters for the score, over all cells of a sweep.

    Most cells have too few trials to say anything alone, and accuracies of different budgets cannot
    be compared. So each trial is scored within its cell (:func:`scores`), which takes out what
    budget and strength do, and all scores go into one fANOVA (Hutter et al., 2014: a random forest,
    whose variance is split among its inputs). What a hyper-parameter does in the same way in all
    cells counts fully; where its best value moves from cell to cell, it counts for less.

    Args:
        records: of one sweep; only finished trials count, of cells with at least two of them.
        ranges: the hyper-parameters that were steered.
    """
    if len(ranges) < 2:
        which = "no hyper-parameters" if not ranges else "a single hyper-parameter"
        return Importance(reason=f"The sweep file steers {which}, so there is nothing to compare.")
    cells = [cell for cell in _cells(records, ranges) if len(cell) > 1]
    trials = [trial for cell in cells for trial in cell]
    if len(trials) < FEWEST:
        return Importance(
            reason=f"It takes at least {FEWEST} finished trials, in cells with two or more of "
            f"them; there are {len(trials)}."
        )
    values = np.concatenate([scores([t.gain or 0.0 for t in cell]) for cell in cells])
    if not values.any():
        return Importance(reason="In each cell all trials are equally accurate.")
    chosen = np.random.default_rng(_SEED).permutation(len(trials))[:_MOST]
    study = _study([trials[i] for i in chosen], values[chosen], ranges)
    # Imported here: it brings scikit-learn, seconds that most sweeps are too small to need.
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=_SEED))
    shares = {name: float(share) for name, share in found.items()}
    return Importance(shares=shares, num_trials=len(trials), num_cells=len(cells))


def one_per_front(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Return one record per annealed front, with its mean score: it has one draw of them all.

    Fronts that lack a network are left out, controls too.
    """
    fronts: dict[tuple[float, int], list[TrialRecord]] = {}
    for record in without_controls(records):
        if record.status == "FINISHED" and record.score is not None:
            fronts.setdefault((record.strength, record.number), []).append(record)
    most = max(map(len, fronts.values()), default=0)
    return [
        dataclasses.replace(
            max(members, key=lambda r: r.budget),
            budget=0.0,
            score=statistics.fmean(r.score for r in members if r.score is not None),
        )
        for members in fronts.values()
        if len(members) == most
    ]


def scores(accuracies: ArrayLike) -> NDArray[np.float64]:
    """Return the share of trials that each beats, minus the share that beat it.

    Args:
        accuracies: (n,), of one cell, n >= 1.

    Returns:
        (n,) in (-1, 1), with sum 0; equal accuracies have equal scores.
    """
    values = np.asarray(accuracies, dtype=np.float64)
    _, level, counts = np.unique(values, return_inverse=True, return_counts=True)
    up_to = np.cumsum(counts)
    below, above = up_to - counts, len(values) - up_to
    score: NDArray[np.float64] = (below - above)[level] / len(values)
    return score


def _cells(
    records: Iterable[TrialRecord], ranges: Mapping[str, FloatRange]
) -> list[list[TrialRecord]]:
    """Return the trials that count, by cell."""
    cells: dict[Cell, list[TrialRecord]] = {}
    for record in without_controls(records):
        is_known = record.score is not None and math.isfinite(record.score)
        if record.status == "FINISHED" and is_known and set(ranges) <= set(record.hyperparameters):
            cells.setdefault(Cell(record.budget, record.strength), []).append(record)
    return list(cells.values())


def _place(drawn_from: FloatRange, value: float) -> float:
    scale = math.log if drawn_from.log else float
    low, high = scale(drawn_from.low), scale(drawn_from.high)
    return min(max((scale(value) - low) / (high - low), 0.0), 1.0) if high > low else 0.0


def _study(
    trials: Sequence[TrialRecord], values: NDArray[np.float64], ranges: Mapping[str, FloatRange]
) -> optuna.Study:
    """Return a study in memory, of trials with these values.

    Each parameter is the place within its range, in [0, 1], on a log scale where it was drawn on
    one: Optuna's fANOVA would take log ranges for uniform ones, and find too little in them.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={name: _place(r, trial.hyperparameters[name]) for name, r in ranges.items()},
                distributions=dict.fromkeys(ranges, FloatDistribution(0.0, 1.0)),
                value=float(value),
            )
            for trial, value in zip(trials, values, strict=True)
        ]
    )
    return study
