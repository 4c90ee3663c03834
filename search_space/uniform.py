"""Widths of one common share at a budget, and widths moved toward them."""

from __future__ import annotations

from collections.abc import Mapping

from search_space.budget import Budget, fit_widths
from search_space.channel_graph import ChannelGraph
from search_space.width_rules import WidthRules


def uniform_widths(graph: ChannelGraph, budget: Budget, rules: WidthRules) -> dict[str, int]:
    """Return widths of the same share of every group, moved onto the budget exactly.

    Single channels are off the common share, and groups with a floor or divisor of their own.

    Raises:
        ValueError: no such network, see :func:`search_space.fit_widths`.
    """
    by_limit = [graph.uniform_widths(r, limit) for r, limit in budget.limits(graph).items()]
    narrowest = {name: min(widths[name] for widths in by_limit) for name in graph.full_widths()}
    return fit_widths(graph, budget, rules, narrowest, {})


def widths_toward_uniform(
    graph: ChannelGraph,
    budget: Budget,
    rules: WidthRules,
    widths: Mapping[str, int],
    share: float,
) -> dict[str, int]:
    """Return the geometric mean of widths and the uniform ones, moved onto the budget exactly.

    Uniform are those of :func:`uniform_widths`. Of a network that was narrowed before, that is the
    network narrowed by one more share in all of its groups: what was found stays found.

    Args:
        graph: groups and costs.
        budget: the limits to meet.
        rules: floors and divisors.
        widths: that meet the budget, open units by group.
        share: weight of the uniform widths, in [0, 1].

    Raises:
        ValueError: no such network, see :func:`search_space.fit_widths`.
    """
    uniform = uniform_widths(graph, budget, rules)
    mean = {n: round(w ** (1 - share) * uniform[n] ** share) for n, w in widths.items()}
    return fit_widths(graph, budget, rules, mean, {})
