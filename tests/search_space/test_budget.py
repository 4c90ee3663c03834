import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_space import (
    Budget,
    ChannelGraph,
    ChannelGroup,
    GroupRules,
    Product,
    Width,
    WidthRules,
    check_feasible,
    read_limit,
)

GraphOf = Callable[..., ChannelGraph]


def _parallel(sizes: dict[str, int], cost: int = 1) -> ChannelGraph:
    """Groups side by side: each channel costs ``cost`` MACs, 3 parameters and 4 bytes."""
    widths = {name: Width(0, ((name, 1),)) for name in sizes}
    memory = Width(0, tuple((name, 4) for name in sizes))
    return ChannelGraph(
        [ChannelGroup(name, size, (name,), ()) for name, size in sizes.items()],
        [Product(name, cost, width) for name, width in widths.items()],
        [Product(name, 3, width) for name, width in widths.items()],
        [memory],
    )


# --- Budget -----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf, "-2", "nan", "0 M"])
def test_limit_must_be_a_positive_number(limit: float | str) -> None:
    with pytest.raises(ValueError, match=f"limit is {limit!r}; it must be a number above 0"):
        Budget(limit=limit)
    with pytest.raises(ValueError, match=f"also.num_params is {limit!r}; it must be a number"):
        Budget(limit=0.5, also={"num_params": limit})


@pytest.mark.parametrize("text", ["", "M", "3 MB", "3 ms", "3 m", "half", "1 2"])
def test_text_must_be_a_number_with_a_unit_of_the_resource(text: str) -> None:
    with pytest.raises(ValueError, match=f"limit is '{text}'; .* one of the units k, M, G$"):
        Budget(limit=text)


def test_resources_must_be_known_and_named_once() -> None:
    with pytest.raises(ValueError, match="resource is 'latency'; known: macs, num_params"):
        Budget(resource="latency", limit=0.5)
    with pytest.raises(ValueError, match="also is 'energy'; known: macs, num_params"):
        Budget(limit=0.5, also={"energy": 0.5})
    with pytest.raises(ValueError, match="also has 'macs', which limit limits already"):
        Budget(limit=0.5, also={"macs": 0.25})


@pytest.mark.parametrize(
    ("resource", "written", "number", "absolute"),
    [
        ("macs", 0.5, 0.5, False),
        ("macs", 1, 1, False),
        ("macs", 1.5, 1.5, True),
        ("macs", "0.5", 0.5, False),
        ("macs", "3e8", 3e8, True),
        ("macs", "300M", 3e8, True),
        ("macs", "4.1 M", 4_100_000, True),
        ("macs", "256.1 k", 256_100, True),
        ("macs", " 0.3 G ", 3e8, True),
        ("num_params", "0.0005 k", 0.5, True),
        ("activation_bytes", "25 MB", 25e6, True),
        ("activation_bytes", "2 MiB", 2 * 1024**2, True),
        ("latency_ms", 0.8, 0.8, False),
        ("latency_ms", "0.8 ms", 0.8, True),
        ("latency_ms", "800 us", 0.8, True),
        ("latency_ms", "0.5s", 500, True),
    ],
)
def test_a_unit_makes_a_limit_absolute(
    resource: str, written: float | str, number: float, absolute: bool
) -> None:
    found, is_absolute = read_limit("limit is", written, resource)
    assert (found, is_absolute) == (number, absolute)


@given(st.floats(1e-300, 1e300))
def test_text_and_number_mean_the_same(number: float) -> None:
    assert read_limit("", repr(number), "macs") == read_limit("", number, "macs")


@pytest.mark.parametrize(
    ("limit", "absolute"),
    [(1.0, 30), (0.5, 15), (0.1, 3), (0.34, 10), (1.5, 1), (12, 12), (12.9, 12), ("0.01k", 10)],
)
def test_limits_are_relative_up_to_one_and_absolute_above(limit: Any, absolute: int) -> None:
    graph = _parallel({"a": 10, "b": 20})
    assert Budget(limit=limit).absolute(graph) == absolute
    assert isinstance(Budget(limit=limit).absolute(graph), int)


def test_relative_limits_are_of_their_own_resource() -> None:
    graph = _parallel({"a": 10, "b": 20}, cost=5).with_latency(lambda widths: widths.sum(-1) / 7)
    budget = Budget(
        resource="num_params",
        limit=0.5,
        also={"macs": 0.3, "activation_bytes": "60 kB", "latency_ms": 0.25},
    )
    assert budget.limits(graph) == {
        "num_params": 45,
        "macs": 45,
        "activation_bytes": 60_000,
        "latency_ms": pytest.approx(30 / 7 / 4),  # not rounded to whole milliseconds
    }
    assert list(budget.limits(graph)) == ["num_params", "macs", "activation_bytes", "latency_ms"]
    below_one = Budget(resource="latency_ms", limit="0.8 ms").limits(graph)
    assert below_one == {"latency_ms": 0.8}


def test_latency_needs_a_table() -> None:
    with pytest.raises(ValueError, match="latency_ms needs a measured table"):
        check_feasible(_parallel({"a": 4}), Budget(resource="latency_ms", limit=0.5), WidthRules())


# --- check_feasible ---------------------------------------------------------------------------


def test_a_limit_above_the_supernet_is_refused(graph_of: GraphOf) -> None:
    graph = graph_of("repvgg_tiny")
    full = graph.count_macs()
    check_feasible(graph, Budget(limit=full), WidthRules())
    with pytest.raises(ValueError, match=rf"limit 2e\+09 of macs is above .* own {full}; choose"):
        check_feasible(graph, Budget(limit=2e9), WidthRules())
    with pytest.raises(ValueError, match=f"is above the supernet's own {full}"):
        check_feasible(graph, Budget(limit=full + 1), WidthRules())


def test_a_further_limit_may_lie_above_the_supernet() -> None:
    graph = _parallel({"a": 10})
    check_feasible(graph, Budget(limit=0.5, also={"num_params": 31}), WidthRules())


def test_a_limit_below_the_floor_is_refused(graph_of: GraphOf) -> None:
    graph, rules = graph_of("repvgg_tiny"), WidthRules(floor=0.5)
    least = graph.count_params({g.name: g.size // 2 for g in graph.groups})
    check_feasible(graph, Budget(resource="num_params", limit=least), rules)
    with pytest.raises(ValueError, match=rf"limit 0\.2 of num_params .* below {least} .* of 0\.5"):
        check_feasible(graph, Budget(resource="num_params", limit=0.2), rules)
    with pytest.raises(ValueError, match=f"absolute, as it is above 1: .* is below {least}"):
        check_feasible(graph, Budget(resource="num_params", limit=least - 1), rules)
    with pytest.raises(ValueError, match=f"limit 0.2 of num_params .* is below {least}"):
        check_feasible(graph, Budget(limit=0.9, also={"num_params": 0.2}), rules)


def test_the_share_that_is_named_as_the_least_can_be_asked_for(graph_of: GraphOf) -> None:
    graph, rules = graph_of("repvgg_tiny"), WidthRules()
    with pytest.raises(ValueError, match=r"\((0\.\d+) of the supernet\)") as caught:
        check_feasible(graph, Budget(limit=0.0001), rules)
    (share,) = re.findall(r"\((0\.\d+) of the supernet\)", str(caught.value))
    least = graph.count_macs({g.name: rules.lowest(g) for g in graph.groups})
    assert Budget(limit=float(share)).absolute(graph) >= least


def test_floors_of_groups_count() -> None:
    graph = _parallel({"a": 16, "b": 16})
    rules = WidthRules(groups={"b": GroupRules(floor=0.5)})
    check_feasible(graph, Budget(limit=9), rules)
    with pytest.raises(ValueError, match=r"limit 8 of macs .* below 9 .*or those of width"):
        check_feasible(graph, Budget(limit=8), rules)


def test_a_limit_between_two_possible_costs_is_refused() -> None:
    graph = _parallel({"a": 16}, cost=10)
    rules = WidthRules(divisor=8)
    check_feasible(graph, Budget(limit=80), rules)
    with pytest.raises(ValueError, match=r"limit 120 of macs seems to fall .* 80 is the largest"):
        check_feasible(graph, Budget(limit=120), rules)
    # Of several limits it names the one that is used most.
    several = Budget(limit=120, also={"num_params": 0.5, "activation_bytes": "35"})
    check_feasible(graph, several, rules)
    with pytest.raises(ValueError, match=r"limit 26 of num_params seems to fall .* 24 is the"):
        check_feasible(graph, Budget(limit=120, also={"num_params": 26}), rules)


def test_rules_that_fit_no_group_are_refused() -> None:
    graph = _parallel({"a": 4, "b": 64})
    with pytest.raises(ValueError, match=r"divisor 8 of .* larger than a layer: a has 4 channels"):
        check_feasible(graph, Budget(limit=0.5), WidthRules(divisor=8))
    with pytest.raises(ValueError, match="'c', which matches no channel group"):
        check_feasible(graph, Budget(limit=0.5), WidthRules(groups={"c": GroupRules(floor=1.0)}))
    own = WidthRules(divisor=8, groups={"a": GroupRules(divisor=2)})
    check_feasible(graph, Budget(limit=0.5), own)


def test_budgets_can_be_hashed() -> None:
    assert len({Budget(limit=0.5, also={"num_params": 0.5}) for _ in range(2)}) == 1


def test_shares_become_absolute_for_slices_of_a_network(graph_of) -> None:
    graph = graph_of("repvgg_tiny").with_latency(lambda widths: widths.sum(-1) / 1000)
    budget = Budget(resource="latency_ms", limit=0.5, also={"macs": 0.3, "num_params": "9 k"})
    absolute = budget.absolute_in(graph)
    assert absolute.limits(graph) == budget.limits(graph)
    assert absolute.resource == "latency_ms"
    narrower = graph.with_latency(lambda widths: widths.sum(-1) * 0)
    assert absolute.limits(narrower) == budget.limits(graph)
