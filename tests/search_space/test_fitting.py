import copy
import itertools
import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from search_space import (
    LOWEST_USE,
    Budget,
    ChannelGraph,
    ChannelGroup,
    GroupRules,
    Product,
    Width,
    WidthRules,
    check_feasible,
    fit_widths,
)

GraphOf = Callable[..., ChannelGraph]
Scores = dict[str, list[float]]

FAMILIES = pytest.mark.parametrize("name", ["repvgg_tiny", "repvgg_small"])
WHOLE_RESOURCES = ["macs", "num_params", "activation_bytes"]


def _parallel(sizes: dict[str, int], cost: int = 1) -> ChannelGraph:
    """Groups side by side, each of whose channels costs the same."""
    return ChannelGraph(
        [ChannelGroup(name, size, (name,), ()) for name, size in sizes.items()],
        [Product(name, cost, Width(0, ((name, 1),))) for name in sizes],
    )


def _chain(sizes: list[int], macs: list[int], params: list[int], per_unit: int = 1) -> ChannelGraph:
    """Layers one after another; costs per pair of units and a bias per unit."""
    names = [f"g{k}" for k in range(len(sizes))]
    widths = [Width(3), *(Width(0, ((name, 1),)) for name in names), Width(10)]
    pairs = list(zip(["first", *names], widths, widths[1:], strict=False))
    return ChannelGraph(
        [ChannelGroup(n, s, (n,), (), per_unit) for n, s in zip(names, sizes, strict=True)],
        [Product(n, c, a, b) for (n, a, b), c in zip(pairs, macs, strict=False)],
        [Product(n, c, a, b) for (n, a, b), c in zip(pairs, params, strict=False)],
        [Width(0, tuple((n, 4) for n in pair)) for pair in itertools.pairwise(names)],
    )


def _scores(graph: ChannelGraph, rules: WidthRules) -> st.SearchStrategy[Scores]:
    """Per group one score per block, best first."""

    def drawn(seed: int) -> Scores:
        rng = random.Random(seed)
        return {
            g.name: sorted((rng.random() for _ in _blocks(g, rules)), reverse=True)
            for g in graph.groups
        }

    return st.integers(0, 10_000).map(drawn)


def _blocks(group: ChannelGroup, rules: WidthRules) -> range:
    return range(0, group.size, rules.step(group))


def _starts(graph: ChannelGraph) -> st.SearchStrategy[dict[str, int]]:
    return st.fixed_dictionaries({g.name: st.integers(0, g.size) for g in graph.groups})


def _assert_meets(
    graph: ChannelGraph, budget: Budget, rules: WidthRules, widths: dict[str, int]
) -> None:
    costs = {r: (graph.count(r, widths), limit) for r, limit in budget.limits(graph).items()}
    assert all(cost <= limit * (1 + 1e-12) for cost, limit in costs.values())
    assert any(cost >= LOWEST_USE * limit for cost, limit in costs.values())
    assert list(widths) == [g.name for g in graph.groups]
    for group in graph.groups:
        width = widths[group.name]
        floor = Fraction(rules.floor_of(group)).limit_denominator(1000)
        assert max(1, group.size * floor) <= width <= group.size
        channels = width * group.channels_per_unit
        assert channels % rules.divisor_of(group) == 0 or width == group.size


def _refusal(function: Callable[..., object], *args: object) -> str | None:
    try:
        function(*args)
    except ValueError as error:
        return str(error)
    return None


# --- the limits are met -----------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(data=st.data(), limit=st.floats(0.2, 1.0), resource=st.sampled_from(WHOLE_RESOURCES))
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
    assume(_refusal(check_feasible, graph, budget, rules) is None)
    start, scores = data.draw(_starts(graph)), data.draw(_scores(graph, rules))
    given_start, given_scores = copy.deepcopy((start, scores))
    widths = fit_widths(graph, budget, rules, start, scores)
    _assert_meets(graph, budget, rules, widths)
    assert (start, scores) == (given_start, given_scores)
    assert widths == fit_widths(graph, budget, rules, start, scores)


SMALL_SPACES: dict[str, Any] = {
    "sizes": st.lists(st.integers(1, 10), min_size=2, max_size=3),
    "macs": st.lists(st.sampled_from([1, 4, 9, 64]), min_size=5, max_size=5),
    "params": st.lists(st.sampled_from([1, 9]), min_size=5, max_size=5),
    "per_unit": st.sampled_from([1, 1, 2, 3]),
    "divisor": st.sampled_from([1, 2, 4]),
    "floor": st.sampled_from([1 / 16, 1 / 4, 0.5]),
    "limit": st.floats(0.05, 1.0),
    "also": st.dictionaries(
        st.sampled_from(["num_params", "activation_bytes"]), st.floats(0.1, 1.0)
    ),
}


@settings(deadline=None, max_examples=200)
@given(data=st.data(), **SMALL_SPACES)
def test_a_budget_is_met_from_every_start_or_by_no_network(
    data: st.DataObject,
    sizes: list[int],
    macs: list[int],
    params: list[int],
    per_unit: int,
    divisor: int,
    floor: float,
    limit: float,
    also: dict[str, float],
) -> None:
    graph = _chain(sizes, macs, params, per_unit)
    rules, budget = WidthRules(floor=floor, divisor=divisor), Budget(limit=limit, also=also)
    assume(all(rules.step(g) <= g.size for g in graph.groups))
    start, scores = data.draw(_starts(graph)), data.draw(_scores(graph, rules))
    refusal = _refusal(check_feasible, graph, budget, rules)
    assert (refusal is None) == any(
        _is_met(graph, budget, dict(zip(graph.full_widths(), widths, strict=True)))
        for widths in itertools.product(*(_possible(g, rules) for g in graph.groups))
    )
    if refusal is None:
        _assert_meets(graph, budget, rules, fit_widths(graph, budget, rules, start, scores))
    else:
        assert "fall between" in refusal or "below" in refusal
        assert _refusal(fit_widths, graph, budget, rules, start, scores) is not None


def _possible(group: ChannelGroup, rules: WidthRules) -> list[int]:
    multiples = [
        w
        for w in range(1, group.size + 1)
        if w * group.channels_per_unit % rules.divisor == 0 or w == group.size
    ]
    return [w for w in multiples if w >= group.size * rules.floor]


def _is_met(graph: ChannelGraph, budget: Budget, widths: dict[str, int]) -> bool:
    uses = [graph.count(r, widths) / limit for r, limit in budget.limits(graph).items() if limit]
    return len(uses) == len(budget.written()) and max(uses) <= 1 and max(uses) >= LOWEST_USE


@settings(deadline=None, max_examples=50)
@given(data=st.data(), limit=st.floats(0.1, 1.0))
def test_a_cost_that_dips_is_met(data: st.DataObject, limit: float) -> None:
    """Like a measured latency: multiples of eight are faster than the widths just below."""
    graph = _parallel({"a": 64, "b": 48, "c": 96})
    graph = graph.with_latency(lambda w: (w / 8 + 0.2 * (w % 8 != 0)).sum(-1) / 7)
    budget, rules = Budget(resource="latency_ms", limit=limit), WidthRules()
    start, scores = data.draw(_starts(graph)), data.draw(_scores(graph, rules))
    _assert_meets(graph, budget, rules, fit_widths(graph, budget, rules, start, scores))


@settings(deadline=None, max_examples=40)
@given(
    data=st.data(),
    limit=st.floats(0.1, 1.0),
    also=st.dictionaries(st.sampled_from(["num_params", "activation_bytes"]), st.floats(0.2, 1.0)),
)
@FAMILIES
def test_no_closed_channel_still_fits(
    graph_of: GraphOf, name: str, data: st.DataObject, limit: float, also: dict[str, float]
) -> None:
    graph, rules, budget = graph_of(name), WidthRules(), Budget(limit=limit, also=also)
    assume(_refusal(check_feasible, graph, budget, rules) is None)
    start, scores = data.draw(_starts(graph)), data.draw(_scores(graph, rules))
    widths = fit_widths(graph, budget, rules, start, scores)
    _assert_meets(graph, budget, rules, widths)
    limits = budget.limits(graph)
    for group, size in graph.full_widths().items():
        if widths[group] < size:
            wider = {**widths, group: widths[group] + 1}
            assert any(graph.count(r, wider) > limit for r, limit in limits.items())


def test_an_exchange_closes_a_gap() -> None:
    # From 3 + 4 no unit of b fits any more, but for two of a less one of b does: 1 + 8 = 9.
    graph = ChannelGraph(
        [ChannelGroup("a", 4, ("a",), ()), ChannelGroup("b", 2, ("b",), ())],
        [Product("a", 1, Width(0, (("a", 1),))), Product("b", 4, Width(0, (("b", 1),)))],
    )
    scores = {"a": [0.9, 0.9, 0.9, 0.1], "b": [0.9, 0.2]}
    start = {"a": 4, "b": 1}
    assert fit_widths(graph, Budget(limit=8), WidthRules(), start, scores) == {"a": 4, "b": 1}
    widths = fit_widths(graph, Budget(limit=9), WidthRules(), start, scores)
    assert widths == {"a": 1, "b": 2}


def test_groups_keep_their_own_rules(graph_of: GraphOf) -> None:
    graph = graph_of("repvgg_small")
    own = {"stages.2.*": GroupRules(divisor=16), "stages.1.0": GroupRules(floor=1.0)}
    rules = WidthRules(divisor=4, groups=own)
    widths = fit_widths(graph, Budget(limit=0.4), rules, graph.full_widths(), {})
    _assert_meets(graph, Budget(limit=0.4), rules, widths)
    assert widths["stages.1.0"] == graph.full_widths()["stages.1.0"]
    assert all(w % 16 == 0 for name, w in widths.items() if name.startswith("stages.2."))


@pytest.mark.parametrize("width", [1, 10_000])
@pytest.mark.parametrize("divisor", [1, 8, 64])
def test_a_large_network_meets_its_budget(width: int, divisor: int) -> None:
    sizes = [64, 256, 512, 2048] * 40  # 160 groups, 115,200 units
    graph = _chain(sizes, [7, 1, 3, 9] * 41, [1] * 161)
    rules, budget = WidthRules(divisor=divisor), Budget(limit=0.25, also={"num_params": 0.2})
    start = dict.fromkeys(graph.full_widths(), width)
    _assert_meets(graph, budget, rules, fit_widths(graph, budget, rules, start, {}))


# --- scores decide ----------------------------------------------------------------------------


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


@settings(deadline=None, max_examples=60)
@given(data=st.data(), limit=st.floats(0.2, 1.0), divisor=st.sampled_from([1, 4, 5]))
def test_blocks_move_in_the_order_of_a_plain_loop(
    data: st.DataObject, limit: float, divisor: int
) -> None:
    graph = _chain([12, 30, 9, 16], [9, 1, 4, 16, 1], [1] * 5)
    rules, budget = WidthRules(divisor=divisor), Budget(limit=limit)
    start, scores = data.draw(_starts(graph)), data.draw(_scores(graph, rules))
    if data.draw(st.booleans()):  # many ties
        scores = {name: [round(s, 1) for s in values] for name, values in scores.items()}
    expected = _plain_loop(graph, budget, rules, start, scores)
    assume(graph.count_macs(expected) >= LOWEST_USE * budget.absolute(graph))
    assert fit_widths(graph, budget, rules, start, scores) == expected


def _plain_loop(
    graph: ChannelGraph, budget: Budget, rules: WidthRules, start: dict[str, int], scores: Scores
) -> dict[str, int]:
    """Close, then open, one block at a time."""
    possible = {
        g.name: [w for w in (*range(0, g.size, rules.step(g)), g.size) if w >= rules.lowest(g)]
        for g in graph.groups
    }
    step = {g.name: rules.step(g) for g in graph.groups}
    size = graph.full_widths()
    # Of two widths that are equally near the larger one.
    now = {n: min(possible[n], key=lambda w, n=n: (abs(w - start[n]), -w)) for n in possible}

    def score(name: str, width: int) -> float:  # of the block that makes this width
        return scores[name][-(-width // step[name]) - 1]

    def neighbour(name: str, by: int) -> int | None:
        place = possible[name].index(now[name]) + by
        return possible[name][place] if 0 <= place < len(possible[name]) else None

    limit = budget.absolute(graph)
    while graph.count_macs(now) > limit:
        closable = [n for n in now if neighbour(n, -1) is not None]
        name = min(closable, key=lambda n: (score(n, now[n]), -now[n] / size[n]))
        now[name] = neighbour(name, -1)
    while True:
        fits = [
            n
            for n in now
            if (wider := neighbour(n, 1)) and graph.count_macs({**now, n: wider}) <= limit
        ]
        if not fits:
            return now
        name = min(fits, key=lambda n: (-score(n, neighbour(n, 1)), now[n] / size[n]))
        now[name] = neighbour(name, 1)


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


# --- refusals ---------------------------------------------------------------------------------


def test_a_limit_no_width_reaches_is_refused() -> None:
    graph = _parallel({"a": 2, "b": 2}, cost=10)
    with pytest.raises(ValueError, match=r"limit 10 of macs .* is below 20 .* floor"):
        fit_widths(graph, Budget(limit=10), WidthRules(), graph.full_widths(), {})
    with pytest.raises(ValueError, match=r"limit 39 of macs seems to fall .*: 30 is the larg"):
        fit_widths(graph, Budget(limit=39), WidthRules(), graph.full_widths(), {})
    with pytest.raises(ValueError, match="limit 41 of macs is above the supernet's own 40"):
        fit_widths(graph, Budget(limit=41), WidthRules(), graph.full_widths(), {})


def test_scores_must_be_one_per_block() -> None:
    graph = _parallel({"a": 20})
    with pytest.raises(ValueError, match=r"unit_scores\['a'\] has 2 scores; the group has 3"):
        fit_widths(graph, Budget(limit=0.5), WidthRules(divisor=8), {"a": 20}, {"a": [1.0, 0.5]})
