import copy
import itertools
import math
import random
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from search_space import (
    LOWEST_USE,
    RESOURCES,
    Budget,
    ChannelGraph,
    ChannelGroup,
    Layer,
    WidthRules,
    check_feasible,
    fit_widths,
)

GraphOf = Callable[..., ChannelGraph]

FAMILIES = pytest.mark.parametrize("name", ["repvgg_tiny", "repvgg_small"])


def _parallel(sizes: dict[str, int], cost: int = 1) -> ChannelGraph:
    """Groups side by side, each of whose channels costs the same."""
    return ChannelGraph(
        tuple(ChannelGroup(n, size, (n,), ()) for n, size in sizes.items()),
        tuple(Layer(n, None, n, 1, size, 1, cost, False) for n, size in sizes.items()),
    )


def _scores(graph: ChannelGraph, rules: WidthRules) -> st.SearchStrategy[dict[str, list[float]]]:
    """Per group one score per unit, best first."""

    def drawn(seed: int) -> dict[str, list[float]]:
        rng = random.Random(seed)
        return {
            g.name: sorted(
                (rng.random() for _ in range(g.size // rules.unit(g.size))), reverse=True
            )
            for g in graph.groups
        }

    return st.integers(0, 10_000).map(drawn)


def _starts(graph: ChannelGraph) -> st.SearchStrategy[dict[str, int]]:
    return st.fixed_dictionaries({g.name: st.integers(0, g.size) for g in graph.groups})


def _assert_meets(
    graph: ChannelGraph, budget: Budget, rules: WidthRules, widths: dict[str, int]
) -> None:
    limit = budget.absolute(graph)
    assert LOWEST_USE * limit <= graph.count(budget.resource, widths) <= limit
    assert list(widths) == [g.name for g in graph.groups]
    for group in graph.groups:
        width = widths[group.name]
        assert max(1, group.size * Fraction(rules.floor).limit_denominator(1000)) <= width
        assert width <= group.size
        assert width % math.gcd(rules.divisor, group.size) == 0


# --- WidthRules -------------------------------------------------------------------------------


@pytest.mark.parametrize("floor", [0.0, -0.1, 1.01, math.nan])
def test_floor_must_be_a_share(floor: float) -> None:
    with pytest.raises(ValueError, match=rf"floor is {floor}; it must be in \(0, 1\]"):
        WidthRules(floor=floor)


@pytest.mark.parametrize("divisor", [0, -8])
def test_divisor_must_be_positive(divisor: int) -> None:
    with pytest.raises(ValueError, match=f"divisor is {divisor}; it must be at least 1"):
        WidthRules(divisor=divisor)


@pytest.mark.parametrize(
    ("floor", "divisor", "size", "unit", "lowest"),
    [
        (1 / 16, 1, 64, 1, 4),
        (1 / 16, 1, 8, 1, 1),
        (1 / 16, 1, 65, 1, 5),
        (1 / 16, 8, 64, 8, 8),
        (1 / 4, 8, 48, 8, 16),
        (1 / 16, 8, 12, 4, 4),
        (1 / 16, 8, 7, 1, 1),
        (0.3, 1, 10, 1, 3),  # 0.3 * 10 is a little above 3 or below, never 4
        (1.0, 8, 20, 4, 20),
    ],
)
def test_units_and_floors(floor: float, divisor: int, size: int, unit: int, lowest: int) -> None:
    rules = WidthRules(floor=floor, divisor=divisor)
    assert (rules.unit(size), rules.lowest(size)) == (unit, lowest)


# --- Budget -----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf])
def test_limit_must_be_a_positive_number(limit: float) -> None:
    with pytest.raises(ValueError, match=f"limit is {limit}; it must be a number above 0"):
        Budget(limit=limit)


def test_resource_must_be_known() -> None:
    with pytest.raises(ValueError, match="resource is 'latency'; known: macs, num_params"):
        Budget(resource="latency", limit=0.5)


@pytest.mark.parametrize(
    ("limit", "absolute"),
    [(1.0, 30), (0.5, 15), (0.1, 3), (0.34, 10), (1.5, 1), (12, 12), (12.9, 12), (500, 500)],
)
def test_limits_are_relative_up_to_one_and_absolute_above(limit: float, absolute: int) -> None:
    assert Budget(limit=limit).absolute(_parallel({"a": 10, "b": 20})) == absolute


def test_relative_limits_are_of_their_own_resource(graph_of: GraphOf) -> None:
    graph = graph_of("repvgg_b1")
    for resource in RESOURCES:
        half = Budget(resource=resource, limit=0.5).absolute(graph)
        assert half == graph.count(resource) // 2


# --- check_feasible ---------------------------------------------------------------------------


def test_a_limit_above_the_supernet_is_refused(graph_of: GraphOf) -> None:
    graph = graph_of("repvgg_tiny")
    full = graph.count_macs()
    check_feasible(graph, Budget(limit=full), WidthRules())
    with pytest.raises(ValueError, match=rf"limit 2e\+09 of macs is above .* own {full}; choose"):
        check_feasible(graph, Budget(limit=2e9), WidthRules())
    with pytest.raises(ValueError, match=f"is above the supernet's own {full}"):
        check_feasible(graph, Budget(limit=full + 1), WidthRules())


def test_a_limit_below_the_floor_is_refused(graph_of: GraphOf) -> None:
    graph, rules = graph_of("repvgg_tiny"), WidthRules(floor=0.5)
    least = graph.count_params({g.name: g.size // 2 for g in graph.groups})
    check_feasible(graph, Budget(resource="num_params", limit=least), rules)
    with pytest.raises(ValueError, match=rf"limit 0\.2 of num_params .* below {least} .* of 0\.5"):
        check_feasible(graph, Budget(resource="num_params", limit=0.2), rules)
    with pytest.raises(ValueError, match=f"is below {least}"):
        check_feasible(graph, Budget(resource="num_params", limit=least - 1), rules)


def test_a_limit_between_two_possible_costs_is_refused() -> None:
    graph = _parallel({"a": 16}, cost=10)
    rules = WidthRules(divisor=8)
    check_feasible(graph, Budget(limit=80), rules)
    with pytest.raises(ValueError, match=r"limit 120 of macs falls between .* 80 is the largest"):
        check_feasible(graph, Budget(limit=120), rules)


# --- fit_widths -------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(data=st.data(), limit=st.floats(0.1, 1.0), resource=st.sampled_from(RESOURCES))
@pytest.mark.parametrize("divisor", [1, 4])
@FAMILIES
def test_every_start_ends_within_the_budget(
    graph_of: GraphOf,
    name: str,
    divisor: int,
    data: st.DataObject,
    limit: float,
    resource: str,
) -> None:
    graph, rules = graph_of(name), WidthRules(divisor=divisor)
    budget = Budget(resource=resource, limit=limit)
    start, scores = data.draw(_starts(graph)), data.draw(_scores(graph, rules))
    given_start, given_scores = copy.deepcopy((start, scores))
    widths = fit_widths(graph, budget, rules, start, scores)
    _assert_meets(graph, budget, rules, widths)
    assert (start, scores) == (given_start, given_scores)
    assert widths == fit_widths(graph, budget, rules, start, scores)


@settings(deadline=None, max_examples=100)
@given(
    data=st.data(),
    limit=st.floats(0.03, 1.0),
    floor=st.sampled_from([1 / 64, 1 / 16, 1 / 4, 0.3]),
    resource=st.sampled_from(RESOURCES),
)
@FAMILIES
def test_a_limit_found_feasible_is_met_from_every_start(
    graph_of: GraphOf,
    name: str,
    data: st.DataObject,
    limit: float,
    floor: float,
    resource: str,
) -> None:
    graph, rules = graph_of(name), WidthRules(divisor=8, floor=floor)
    budget = Budget(resource=resource, limit=limit)
    start, scores = data.draw(_starts(graph)), data.draw(_scores(graph, rules))
    refusal = _refusal(check_feasible, graph, budget, rules)
    error = _refusal(fit_widths, graph, budget, rules, start, scores)
    if refusal is None:
        assert error is None
    if error is None:
        _assert_meets(graph, budget, rules, fit_widths(graph, budget, rules, start, scores))
    for message in filter(None, (refusal, error)):
        assert "falls between" in message or "below" in message


def _refusal(function: Callable[..., object], *args: object) -> str | None:
    try:
        function(*args)
    except ValueError as error:
        return str(error)
    return None


def test_a_start_that_exchanges_cannot_mend_is_left_for_uniform_widths(graph_of: GraphOf) -> None:
    graph, rules = graph_of("repvgg_tiny"), WidthRules(divisor=8)
    failures = 0
    for limit in (k / 200 for k in range(20, 200)):
        budget = Budget(limit=limit)
        if _refusal(check_feasible, graph, budget, rules):
            failures += 1
            continue
        for favourite in graph.full_widths():
            scores = {favourite: [1.0] * graph.full_widths()[favourite]}
            widths = fit_widths(graph, budget, rules, graph.full_widths(), scores)
            _assert_meets(graph, budget, rules, widths)
    assert failures < 30


@settings(deadline=None)
@given(
    data=st.data(),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    share=st.floats(0.01, 1),
)
def test_equal_costs_keep_the_highest_scores(
    data: st.DataObject, sizes: list[int], share: float
) -> None:
    graph, rules = _parallel({f"g{k}": s for k, s in enumerate(sizes)}), WidthRules()
    budget = Budget(limit=max(len(sizes), round(share * sum(sizes))) / sum(sizes))
    start, scores = data.draw(_starts(graph)), data.draw(_scores(graph, rules))
    limit = budget.absolute(graph)
    assume(limit >= len(sizes))

    def total(widths: tuple[int, ...]) -> float:
        return sum(sum(s[:w]) for s, w in zip(scores.values(), widths, strict=True))

    possible = itertools.product(*(range(1, size + 1) for size in sizes))
    best = max(total(widths) for widths in possible if sum(widths) <= limit)
    # From full widths units only close and from the floor they only open: both are greedy on
    # equal costs, hence optimal. In between the start counts as well as the scores.
    for edge in ({g.name: g.size for g in graph.groups}, {g.name: 1 for g in graph.groups}):
        fitted = fit_widths(graph, budget, rules, edge, scores)
        assert total(tuple(fitted.values())) == pytest.approx(best)
    _assert_meets(graph, budget, rules, fit_widths(graph, budget, rules, start, scores))


@settings(deadline=None, max_examples=40)
@given(data=st.data(), limit=st.floats(0.1, 1.0), resource=st.sampled_from(RESOURCES))
@FAMILIES
def test_no_closed_channel_still_fits(
    graph_of: GraphOf, name: str, data: st.DataObject, limit: float, resource: str
) -> None:
    graph, rules = graph_of(name), WidthRules()
    budget = Budget(resource=resource, limit=limit)
    widths = fit_widths(
        graph, budget, rules, data.draw(_starts(graph)), data.draw(_scores(graph, rules))
    )
    for group, size in graph.full_widths().items():
        if widths[group] < size:
            wider = {**widths, group: widths[group] + 1}
            assert graph.count(resource, wider) > budget.absolute(graph)


def test_a_group_without_merit_closes_first(graph_of: GraphOf) -> None:
    graph, rules = graph_of("repvgg_small"), WidthRules()
    scores = {g.name: [0.9] * g.size for g in graph.groups}
    scores["stages.2.1"] = [0.1] * 64
    full = graph.full_widths()
    limit = graph.count_macs({**full, "stages.2.1": 20})
    widths = fit_widths(graph, Budget(limit=limit), rules, full, scores)
    assert widths == {**full, "stages.2.1": 20}


def test_a_group_of_merit_opens_first(graph_of: GraphOf) -> None:
    graph, rules = graph_of("repvgg_small"), WidthRules()
    scores = {g.name: [0.1] * g.size for g in graph.groups}
    scores["stages.2.1"] = [0.9] * 64
    half = {name: size // 2 for name, size in graph.full_widths().items()}
    limit = graph.count_macs({**half, "stages.2.1": 50})
    widths = fit_widths(graph, Budget(limit=limit), rules, half, scores)
    assert widths == {**half, "stages.2.1": 50}


def test_a_fitting_start_stays(graph_of: GraphOf) -> None:
    graph = graph_of("repvgg_tiny")
    start = {name: size // 3 for name, size in graph.full_widths().items()}
    budget = Budget(limit=graph.count_macs(start))
    assert fit_widths(graph, budget, WidthRules(), start, {}) == start


def test_a_start_outside_the_rules_is_rounded_to_them(graph_of: GraphOf) -> None:
    graph, rules = graph_of("repvgg_small"), WidthRules(divisor=4, floor=0.25)
    budget = Budget(limit=0.5)
    for width in (0, 3, 10_000):
        start = dict.fromkeys(graph.full_widths(), width)
        _assert_meets(graph, budget, rules, fit_widths(graph, budget, rules, start, {}))


def test_unscored_groups_shrink_alike(graph_of: GraphOf) -> None:
    graph = graph_of("repvgg_small")
    widths = fit_widths(graph, Budget(limit=0.25), WidthRules(), graph.full_widths(), {})
    shares = [widths[g.name] / g.size for g in graph.groups]
    assert max(shares) - min(shares) < 0.15


@pytest.mark.parametrize("width", [1, 10_000])
@pytest.mark.parametrize("divisor", [1, 8])
def test_a_large_network_meets_its_budget(graph_of: GraphOf, width: int, divisor: int) -> None:
    graph, rules = graph_of("repvgg_b1"), WidthRules(divisor=divisor)
    start = dict.fromkeys(graph.full_widths(), width)
    widths = fit_widths(graph, Budget(limit=0.25), rules, start, {})
    _assert_meets(graph, Budget(limit=0.25), rules, widths)


def test_a_limit_no_width_reaches_is_refused() -> None:
    graph = _parallel({"a": 2, "b": 2}, cost=10)
    with pytest.raises(ValueError, match="limit 10 is below what the floor allows"):
        fit_widths(graph, Budget(limit=10), WidthRules(), graph.full_widths(), {})
    with pytest.raises(ValueError, match="limit 50 of macs falls between two possible costs: 40"):
        fit_widths(graph, Budget(limit=50), WidthRules(), graph.full_widths(), {})
