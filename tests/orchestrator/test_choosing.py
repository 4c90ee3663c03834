from __future__ import annotations

import dataclasses

import pytest

from deploy.gates import budget_gate
from orchestrator.choosing import absolute_budget, choose
from orchestrator.errors import UserError
from orchestrator.pareto import mark_front
from orchestrator.records import TrialRecord


def record(trial_id: str, macs: int, accuracy: float, status="FINISHED") -> TrialRecord:
    return TrialRecord(
        trial_id=trial_id,
        sweep_id="s",
        status=status,
        budget=0.5,
        strength=1.0,
        number=0,
        macs=macs,
        num_params=macs // 10,
        score=accuracy,
    )


RECORDS = mark_front(
    [
        record("cheap", 100, 0.7),
        record("beaten", 200, 0.6),
        record("good", 300, 0.8),
        record("best", 900, 0.9),
        record("failed", 50, 0.99, status="FAILED"),
    ]
)


@pytest.mark.parametrize(
    ("limit", "chosen"),
    [
        *[(0.1, "cheap"), (0.29, "cheap"), (0.3, "good"), (300, "good"), (299, "cheap")],
        *[(1.0, "best"), ("0.3", "good"), ("0.3 k", "good"), ("299", "cheap")],
    ],
)
def test_the_most_accurate_front_member_within_the_limit_is_chosen(limit, chosen):
    assert choose(RECORDS, "macs", limit, 1000).trial_id == chosen


def test_a_share_takes_the_network_that_was_found_for_it():
    (found,) = mark_front([record("found", 29, 0.7)])
    assert 0.29 * 100 < 29  # in floating point
    assert choose([found], "macs", 0.29, 100) == found


def test_what_the_search_may_cost_is_what_may_be_promoted():
    full = 18_583_969_800
    assert full * 0.69 < 12_822_939_162  # in floating point
    limit = absolute_budget(0.69, "macs", full)
    assert limit == 12_822_939_162
    assert budget_gate(resource="macs", cost=12_822_939_162, limit=limit).passed
    assert not budget_gate(resource="macs", cost=12_822_939_163, limit=limit).passed


def test_a_control_is_never_chosen_however_good_it_is():
    perfect = dataclasses.replace(record("control-uniform-b0.5", 90, 1.0), control="uniform")
    records = mark_front([*RECORDS, perfect])
    assert [r.on_front for r in records] == [r.on_front for r in RECORDS] + [False]
    assert choose(records, "macs", 1.0, 1000).trial_id == "best"
    marked = dataclasses.replace(perfect, on_front=True)
    assert choose([*RECORDS, marked], "macs", 1.0, 1000).trial_id == "best"
    with pytest.raises(UserError, match="no trial of the sweep has finished"):
        choose([marked], "macs", 1.0, 1000)


def test_of_equals_the_cheapest_is_chosen():
    twins = mark_front([record("a", 300, 0.8), record("b", 300, 0.8), record("c", 100, 0.8)])
    assert choose(twins, "macs", 0.5, 1000).trial_id == "c"


def test_other_resources_count_too():
    assert choose(mark_front(RECORDS, "num_params"), "num_params", 30, 1000).trial_id == "good"


def test_latencies_count_as_predicted():
    records = [
        dataclasses.replace(r, latency_ms=9.0, predicted_latency_ms=r.macs / 1000) for r in RECORDS
    ]
    records = mark_front(records, "latency_ms")
    assert choose(records, "latency_ms", "0.8 ms", 2.0).trial_id == "good"
    assert choose(records, "latency_ms", 0.5, 2.0).trial_id == "best"
    with pytest.raises(UserError, match=r"cheapest has 0\.1 latency_ms \(0\.0500"):
        choose(records, "latency_ms", "90 us", 2.0)


@pytest.mark.parametrize("limit", ["much", "0.8 MB", "-1", "0"])
def test_a_limit_that_cannot_be_read_is_refused(limit):
    with pytest.raises(UserError, match=f"--budget is '{limit}'.* k, M, G"):
        choose(RECORDS, "macs", limit, 1000)


def test_a_limit_below_every_member_is_refused_with_what_there_is():
    with pytest.raises(UserError, match=r"cheapest has 100 macs \(0\.1000"):
        choose(RECORDS, "macs", 0.05, 1000)


def test_without_finished_trials_nothing_is_chosen():
    with pytest.raises(UserError, match="no trial of the sweep has finished"):
        choose([], "macs", 0.5, 1000)
