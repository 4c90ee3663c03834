import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_space import TUNABLE, FloatRange, check_tunable

NOT_ASCENDING = "are not an ascending range"


@pytest.mark.parametrize(
    ("low", "high"),
    [(2.0, 1.0), (math.nan, 1.0), (0.0, math.nan), (-math.inf, 1.0), (0.0, math.inf)],
)
@pytest.mark.parametrize("log", [False, True])
def test_ends_must_be_finite_and_ascend(low: float, high: float, log: bool) -> None:
    with pytest.raises(ValueError, match=f"low {low} and high {high} {NOT_ASCENDING}"):
        FloatRange(low=low, high=high, log=log)


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_log_range_starts_above_zero(low: float) -> None:
    with pytest.raises(ValueError, match=f"low is {low}; a log range must start above 0"):
        FloatRange(low=low, high=1.0, log=True)
    assert FloatRange(low=low, high=1.0).contains(low)


@given(st.floats(-10, 10), st.floats(0, 10), st.floats(allow_nan=True))
def test_contains_both_ends_and_nothing_outside(low: float, span: float, value: float) -> None:
    given_range = FloatRange(low=low, high=low + span)
    assert given_range.contains(low)
    assert given_range.contains(low + span)
    assert given_range.contains(value) == (sorted([low, value, low + span])[1] == value)


@pytest.mark.parametrize("name", list(TUNABLE))
def test_widest_range_is_allowed_and_no_wider_one(name: str) -> None:
    widest = TUNABLE[name]
    check_tunable({name: widest})
    for low, high in ((widest.low - 1, widest.high), (widest.low, widest.high + 1)):
        with pytest.raises(ValueError, match=f"{name} ranges over .* it must stay within"):
            check_tunable({name: FloatRange(low=low, high=high)})


def test_unknown_hyperparameter_is_named() -> None:
    with pytest.raises(ValueError, match="unknown hyper-parameter 'momentum'; known: learning_ra"):
        check_tunable(
            {"learning_rate": TUNABLE["learning_rate"], "momentum": FloatRange(low=0, high=1)}
        )


def test_no_hyperparameters_are_fine() -> None:
    check_tunable({})
