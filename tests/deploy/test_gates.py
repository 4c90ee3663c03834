from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.gates import (
    GateResult,
    budget_gate,
    latency_gate,
    parity_gate,
    robustness_gate,
    score_gate,
    stored_gate,
    unreadable,
)
from pas_trainer import ACCURACY, Metric

SHARES = st.integers(0, 360).map(lambda correct: correct / 360)


def accuracy(candidate: float, champion: float | None, **asked) -> GateResult:
    return score_gate(
        metric=ACCURACY, score=candidate, champion=champion, against="the champion", **asked
    )


def robust(**found) -> GateResult:
    return robustness_gate(answers="logits", one_image=False, **found)


@given(SHARES, SHARES, st.sampled_from([0.0, 0.01, 0.5]))
def test_a_candidate_may_be_worse_than_the_champion_by_the_tolerance(candidate, champion, allowed):
    gate = accuracy(candidate, champion, tolerance=allowed)
    images = round(candidate * 360) - round(champion * 360)
    assert gate.passed == (images >= -math.floor(allowed * 360 + 1e-6))
    assert gate.required == pytest.approx(champion - allowed)


@given(SHARES, SHARES)
def test_a_challenger_is_compared_but_held_to_the_minimum_alone(candidate, champion):
    gate = accuracy(candidate, champion, refuses=False)
    assert gate.passed
    assert gate.required is None
    assert f"{champion:.4f}" in gate.sentence
    assert accuracy(candidate, champion, refuses=False, worst=0.5).passed == (candidate >= 0.5)


def test_without_a_champion_only_the_minimum_counts():
    gate = score_gate(metric=ACCURACY, score=0.4, champion=None, against="there is no champion")
    assert (gate.passed, gate.required) == (True, None)
    assert "there is no champion" in gate.sentence
    assert not accuracy(0.4, None, worst=0.5).passed


def test_the_higher_of_minimum_and_champion_is_required():
    assert accuracy(0.8, 0.7, worst=0.75).required == 0.75
    assert accuracy(0.8, 0.9, worst=0.75).required == 0.9


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 10))
def test_where_less_is_better_the_bounds_are_turned_round(candidate, champion, allowed):
    """As of the metric's negative, of which more is better."""
    distance, closeness = Metric("swd", higher_is_better=False), Metric("closeness")
    asked = {"against": "the champion", "tolerance": allowed}
    gate = score_gate(metric=distance, score=candidate, champion=champion, **asked)
    turned = score_gate(metric=closeness, score=-candidate, champion=-champion, **asked)
    assert (gate.name, gate.passed, gate.required) == ("swd", turned.passed, -turned.required)
    worst = score_gate(metric=distance, score=candidate, champion=None, against="", worst=champion)
    assert worst.passed == (candidate <= champion + 1e-9)


@pytest.mark.parametrize(("score", "passed"), [(20.1, True), (20.19, True), (20.3, False)])
def test_other_scores_may_differ_by_a_hundredth(score, passed):
    gate = stored_gate(metric="psnr_db", recorded=20.0, deploy=score, exported=20.0, num_images=5)
    assert (gate.passed, gate.required) == (passed, pytest.approx(0.2))
    assert "psnr_db" in gate.sentence


@pytest.mark.parametrize(
    ("deploy", "exported", "num_images", "passed"),
    [
        *[(0.9, 0.9, 360, True), (0.9 + 3 / 360, 0.9, 360, True), (0.9, 0.9 - 4 / 360, 360, False)],
        *[(0.905, 0.9, 10_000, True), (0.9052, 0.9, 10_000, False), (0.1, 0.1, 360, False)],
    ],
)
def test_stored_files_are_as_accurate_as_recorded(deploy, exported, num_images, passed):
    gate = stored_gate(
        metric="accuracy", recorded=0.9, deploy=deploy, exported=exported, num_images=num_images
    )
    assert gate.passed == passed
    assert gate.measured == pytest.approx(max(abs(deploy - 0.9), abs(exported - 0.9)))


@pytest.mark.parametrize(("deploy", "exported"), [(math.nan, 0.9), (0.9, math.nan)])
def test_a_score_that_is_no_number_is_not_the_recorded_one(deploy, exported):
    gate = stored_gate(
        metric="psnr_db", recorded=0.9, deploy=deploy, exported=exported, num_images=360
    )
    assert not gate.passed
    assert gate.to_json()["measured"] is None


def test_files_that_are_known_to_be_others_are_refused_however_accurate():
    arguments = {"recorded": 0.9, "deploy": 0.9, "exported": 0.9, "num_images": 360}
    gate = stored_gate(metric="accuracy", **arguments, changed="the files are others")
    assert not gate.passed
    assert gate.sentence.startswith("the files are others; accuracy")


def test_limits_are_kept_exactly_and_only_where_asked_for():
    assert budget_gate(resource="macs", cost=100, limit=100.0).passed
    assert not budget_gate(resource="macs", cost=101, limit=100.0).passed
    assert budget_gate(resource="macs", cost=101, limit=None).passed
    assert budget_gate(resource="latency_ms", cost=1e6 + 1e-5, limit=1e6).passed  # rounding
    assert latency_gate(latency_ms=0.5, limit_ms=0.5).passed
    assert not latency_gate(latency_ms=0.51, limit_ms=0.5).passed
    assert latency_gate(latency_ms=1e9, limit_ms=None).passed


@pytest.mark.parametrize(
    ("training", "exported", "passed"),
    [
        *[(0.0, 0.0, True), (1e-4, 1e-4, True), (2e-4, 0.0, False), (0.0, 2e-4, False)],
        *[(math.nan, 0.0, False), (0.0, math.nan, False), (math.inf, 0.0, False)],
    ],
)
def test_parity_holds_for_every_form_and_never_for_nan(training, exported, passed):
    gate = parity_gate(answers="logits", training_error=training, exported_error=exported)
    assert gate.passed == passed
    document = gate.to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert (document["measured"] is None) == (not math.isfinite(training + exported))


def test_any_fault_is_refused_and_infinity_is_told():
    clean = robustness_gate(
        answers="logits", one_image=False, error=0.0, faults=(), takes_infinity=True
    )
    assert clean.passed
    assert "an infinite pixel is answered" in clean.sentence
    gate = robustness_gate(
        answers="logits",
        one_image=False,
        error=0.0,
        faults=["a NaN is classified"],
        takes_infinity=False,
    )
    assert not gate.passed
    assert gate.sentence.endswith("a NaN is classified")
    assert not robustness_gate(
        answers="logits", one_image=False, error=2e-4, faults=(), takes_infinity=False
    ).passed
    assert not robustness_gate(
        answers="logits", one_image=False, error=math.nan, faults=(), takes_infinity=False
    ).passed


def test_a_detector_is_asked_about_sizes_of_images():
    gate = robustness_gate(
        answers="objects", one_image=True, error=1e-6, faults=(), takes_infinity=False
    )
    assert gate.passed
    assert "objects differ by 1e-06 on images of other sizes" in gate.sentence
    assert "infinite" not in gate.sentence


def test_files_that_cannot_be_read_are_refused_by_the_stored_gate():
    gate = unreadable("weights.safetensors is not a safetensors file")
    assert (gate.name, gate.passed, gate.measured) == ("stored", False, None)
    assert "not a safetensors file" in gate.sentence
