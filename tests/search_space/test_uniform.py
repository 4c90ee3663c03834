from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from search_space import (
    LOWEST_USE,
    Budget,
    GroupRules,
    WidthRules,
    build_supernet,
    fit_widths,
    trace_channels,
    uniform_widths,
    widths_toward_uniform,
)


@pytest.fixture(scope="module")
def graph():
    return trace_channels(build_supernet("repvgg_tiny", 10, 1), torch.empty(1, 1, 8, 8))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("repvgg_small", {}),
        ("mobileone_small", {}),
        ("torchvision:resnet18", {"stem": "cifar"}),
    ],
)
@pytest.mark.parametrize("limit", [0.75, 0.3, 0.1])
def test_uniform_widths_use_the_budget_and_hardly_differ(name, options, limit):
    graph = trace_channels(build_supernet(name, 10, 3, **options), torch.empty(1, 3, 32, 32))
    budget, rules = Budget(limit=limit), WidthRules()
    widths = uniform_widths(graph, budget, rules)
    assert LOWEST_USE * limit <= graph.count_macs(widths) / graph.count_macs() <= limit
    shares = [widths[g.name] / g.size for g in graph.groups]
    assert max(shares) - min(shares) < 0.1
    for group in graph.groups:
        assert widths[group.name] >= rules.lowest(group)


def test_uniform_widths_keep_rules_and_further_limits():
    graph = trace_channels(build_supernet("repvgg_small", 10), torch.empty(1, 3, 32, 32))
    rules = WidthRules(divisor=8, groups={"stages.1.*": GroupRules(floor=1.0)})
    budget = Budget(limit=0.6, also={"num_params": 0.3})
    widths = uniform_widths(graph, budget, rules)
    assert all(width % 8 == 0 for width in widths.values())
    assert all(widths[g.name] == g.size for g in graph.groups if g.name.startswith("stages.1."))
    use = graph.count_macs(widths) / graph.count_macs() / 0.6
    use_params = graph.count_params(widths) / graph.count_params() / 0.3
    assert max(use, use_params) <= 1
    assert max(use, use_params) >= LOWEST_USE


@given(data=st.data(), limit=st.sampled_from([0.5, 0.25]), share=st.floats(0, 1))
def test_moved_widths_meet_the_budget_and_end_at_the_uniform_ones(graph, data, limit, share):
    budget, rules = Budget(limit=limit), WidthRules()
    drawn = {g.name: data.draw(st.integers(1, g.size)) for g in graph.groups}
    widths = fit_widths(graph, budget, rules, drawn, {})
    uniform = uniform_widths(graph, budget, rules)
    assert widths_toward_uniform(graph, budget, rules, widths, 0) == widths
    assert widths_toward_uniform(graph, budget, rules, widths, 1) == uniform
    moved = widths_toward_uniform(graph, budget, rules, widths, share)
    assert LOWEST_USE * limit <= graph.count_macs(moved) / graph.count_macs() <= limit
