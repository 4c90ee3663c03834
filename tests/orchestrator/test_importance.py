"""Importances of hyper-parameters whose effect is known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.importance import FEWEST, importance_of, one_per_front, scores
from orchestrator.records import TrialRecord
from search_space import FloatRange

RANGES = {
    "learning_rate": FloatRange(low=0.01, high=1.0, log=True),
    "weight_decay": FloatRange(low=0.0, high=0.1),
}


def trials(count, accuracy, *, cells=((0.5, 1.0), (0.25, 1.0)), status="FINISHED", seed=0):
    """So many in each cell; ``accuracy`` is a function of budget and both hyper-parameters."""
    draw = np.random.default_rng(seed)
    for budget, strength in cells:
        for number in range(count):
            chosen = {
                "learning_rate": 10 ** draw.uniform(-2, 0),
                "weight_decay": draw.uniform(0, 0.1),
            }
            yield TrialRecord(
                trial_id=f"b{budget}-s{strength}-{number}",
                sweep_id="s",
                status=status,
                budget=budget,
                strength=strength,
                number=number,
                hyperparameters=chosen,
                score=accuracy(budget, **chosen),
            )


def test_what_decides_alone_has_nearly_all_of_it():
    decides = importance_of(
        trials(40, lambda budget, learning_rate, weight_decay: 0.1 * budget - weight_decay), RANGES
    )
    assert list(decides.shares) == ["weight_decay", "learning_rate"]
    assert decides.shares["weight_decay"] > 0.9
    assert sum(decides.shares.values()) == pytest.approx(1)
    assert (decides.num_trials, decides.num_cells, decides.reason) == (80, 2, "")


def test_what_budgets_do_is_not_counted():
    """Between cells accuracy follows the learning rate too, within them only weight decay."""

    def accuracy(budget, learning_rate, weight_decay):
        return 10 * budget - weight_decay

    records = [
        record
        for record in trials(40, accuracy)
        if (record.hyperparameters["learning_rate"] > 0.1) == (record.budget > 0.3)
    ]
    assert importance_of(records, RANGES).shares["weight_decay"] > 0.9


def test_equal_effects_have_about_equal_shares():
    def accuracy(budget, learning_rate, weight_decay):
        return math.log10(learning_rate) / 2 + weight_decay / 0.1

    shares = importance_of(trials(60, accuracy), RANGES).shares
    assert shares["learning_rate"] == pytest.approx(0.5, abs=0.1)


def test_the_same_records_give_the_same_shares():
    records = list(trials(12, lambda budget, learning_rate, weight_decay: learning_rate))
    assert importance_of(records, RANGES) == importance_of(records, RANGES)


def test_a_range_of_one_value_has_no_importance():
    ranges = RANGES | {"learning_rate": FloatRange(low=0.1, high=0.1, log=True)}
    records = trials(12, lambda budget, learning_rate, weight_decay: weight_decay)
    assert importance_of(records, ranges).shares["learning_rate"] == 0


def test_a_front_counts_once_by_its_mean():
    """All its budgets have one draw, so five of them are no five trials."""
    (ended,) = trials(1, lambda *_, **__: 0.5, cells=[(0.5, 1.0)])
    records = [
        dataclasses.replace(ended, number=number, budget=budget, score=number + budget)
        for number in range(8)
        for budget in (0.5, 0.25, 0.125)
    ]
    unfinished = dataclasses.replace(ended, number=8)
    found = one_per_front([*records, unfinished])
    assert [r.number for r in found] == list(range(8))
    assert [r.score for r in found] == pytest.approx([n + 0.875 / 3 for n in range(8)])
    assert "there are 8." in importance_of(found, RANGES).reason


def flat(budget, learning_rate, weight_decay):
    return budget


@pytest.mark.parametrize(
    ("records", "ranges", "reason"),
    [
        (trials(40, flat), {}, "no hyper-parameters"),
        (trials(40, flat), {"weight_decay": RANGES["weight_decay"]}, "a single hyper-parameter"),
        (trials(FEWEST // 2 - 1, flat), RANGES, f"there are {FEWEST - 2}."),
        (trials(40, flat, status="PRUNED"), RANGES, "there are 0."),
        (trials(1, flat, cells=[(b, 1.0) for b in range(1, 50)]), RANGES, "there are 0."),
        (trials(40, lambda *_, **__: math.nan), RANGES, "there are 0."),
        (trials(40, flat), RANGES, "equally accurate"),
    ],
)
def test_nothing_is_said_without_a_ground(records, ranges, reason):
    found = importance_of(records, ranges)
    assert not found.shares
    assert reason in found.reason


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.9]), min_size=1, max_size=30))
def test_scores_count_who_beats_whom(accuracies):
    expected = [
        (sum(b < a for b in accuracies) - sum(b > a for b in accuracies)) / len(accuracies)
        for a in accuracies
    ]
    assert scores(accuracies) == pytest.approx(expected)
