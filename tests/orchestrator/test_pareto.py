"""The front and its area, against brute force and against Optuna's own functions."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from optuna._hypervolume import compute_hypervolume
from optuna.study._multi_objective import _is_pareto_front

from orchestrator.pareto import front, hypervolume, hypervolume_2d, mark_front, pareto_mask
from orchestrator.records import TrialRecord

# Few distinct values, so that ties and copies are common.
VALUES = st.sampled_from([-math.inf, -2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 3.0, math.inf, math.nan])
FINITE = st.integers(0, 6).map(float)


def points_of(values):
    return arrays(np.float64, st.tuples(st.integers(0, 25), st.just(2)), elements=values)


def dominated(point, others):
    return any(np.all(other <= point) and np.any(other < point) for other in others)


@given(points_of(VALUES))
def test_mask_equals_brute_force(points):
    valid = points[~np.isnan(points).any(axis=1)]
    expected = [not np.isnan(p).any() and not dominated(p, valid) for p in points]
    assert pareto_mask(points).tolist() == expected


@given(points_of(FINITE))
def test_mask_equals_optuna(points):
    if len(points):
        expected = _is_pareto_front(points, assume_unique_lexsorted=False)
        assert pareto_mask(points).tolist() == expected.tolist()


@given(points_of(FINITE))
def test_hypervolume_equals_optuna(points):
    reference = np.array([5.0, 4.0])
    inside = points[(points <= reference).all(axis=1)]
    expected = compute_hypervolume(inside, reference) if len(inside) else 0.0
    assert hypervolume_2d(points, reference) == pytest.approx(expected)


@given(points_of(FINITE))
def test_hypervolume_counts_unit_cells(points):
    cells = [(x, y) for x in range(5) for y in range(4)]
    expected = sum(any(p[0] <= x and p[1] <= y for p in points) for x, y in cells)
    assert hypervolume_2d(points, (5.0, 4.0)) == pytest.approx(expected)


def test_ten_thousand_points_are_quick():
    angle = np.linspace(0.0, math.pi / 2, 10_000)
    arc = 1.0 - np.stack([np.cos(angle), np.sin(angle)], axis=1)
    started = time.perf_counter()
    assert pareto_mask(arc).all()
    area = hypervolume_2d(arc, (1.0, 1.0))
    assert time.perf_counter() - started < 1.0
    assert area == pytest.approx(math.pi / 4, rel=1e-3)


@pytest.mark.parametrize("points", [np.zeros(4), np.zeros((4, 3)), np.zeros((2, 2, 2))])
def test_wrong_shapes_are_refused(points):
    with pytest.raises(ValueError, match="shape"):
        pareto_mask(points)


@pytest.mark.parametrize("reference", [(1.0,), (1.0, math.inf), (math.nan, 1.0)])
def test_wrong_references_are_refused(reference):
    with pytest.raises(ValueError, match="reference"):
        hypervolume_2d([[0.0, 0.0]], reference)


def test_nothing_gives_nothing():
    assert pareto_mask(np.empty((0, 2))).shape == (0,)
    assert pareto_mask([]).shape == (0,)
    assert hypervolume_2d([], (1.0, 1.0)) == 0.0
    assert hypervolume_2d([[math.nan, 0.0], [1.0, 0.0]], (1.0, 1.0)) == 0.0


def trial(number, macs, accuracy, status="FINISHED", **fields):
    return TrialRecord(
        trial_id=f"b0.5-s1-{number}",
        sweep_id="s",
        status=status,
        budget=0.5,
        strength=1.0,
        number=number,
        macs=macs,
        score=accuracy,
        **fields,
    )


RECORDS = [
    trial(0, 50, 0.8),
    trial(1, 20, 0.5),
    trial(2, 60, 0.7),  # dominated by 0
    trial(3, 10, 0.9, status="PRUNED"),
    trial(4, None, 0.9),
    trial(5, 5, None),
    trial(6, 1, math.nan),
    trial(7, 50, 0.8),  # a copy of 0
]


def test_of_some_metrics_less_is_better():
    lower = {"metric": "swd", "higher_is_better": False}
    records = [trial(0, 50, 0.2, **lower), trial(1, 20, 0.5, **lower), trial(2, 60, 0.7, **lower)]
    assert [record.number for record in front(records)] == [1, 0]


def test_front_of_records():
    assert [record.number for record in front(RECORDS)] == [1, 0, 7]
    marked = mark_front(RECORDS, "macs")
    assert [record.number for record in marked] == list(range(8))
    assert [record.number for record in marked if record.on_front] == [0, 1, 7]
    assert front([]) == []


def test_front_by_another_resource():
    records = [trial(0, 1, 0.8, latency_ms=3.0), trial(1, 9, 0.8, latency_ms=2.0)]
    assert [record.number for record in front(records, "latency_ms")] == [1]


def test_stale_marks_are_cleared():
    records = [trial(0, 9, 0.5, on_front=True), trial(1, 1, 0.9)]
    assert [record.on_front for record in mark_front(records, "macs")] == [False, True]


def test_controls_are_never_on_the_front_and_add_nothing():
    control = trial(0, 1, 1.0, control="uniform", on_front=True)
    assert front([control]) == []
    assert [r.on_front for r in mark_front([control, trial(1, 50, 0.8)])] == [False, True]
    assert hypervolume([control], "macs", 100) == 0.0


def test_hypervolume_of_records():
    # From 0.2 to 0.5 of the cost accuracy 0.5, from 0.5 to 1 accuracy 0.8.
    assert hypervolume(RECORDS, "macs", 100) == pytest.approx(0.3 * 0.5 + 0.5 * 0.8)
    assert hypervolume([], "macs", 100) == 0.0
    assert hypervolume([trial(0, 200, 1.0)], "macs", 100) == 0.0
    with pytest.raises(ValueError, match="reference_cost"):
        hypervolume(RECORDS, "macs", 0)
