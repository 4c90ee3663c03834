"""Budgets: limits on one or several resources, and the widths that meet them exactly."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from search_space.channel_graph import RESOURCES, ChannelGraph
from search_space.fitting import LOWEST_USE, Fit
from search_space.width_rules import WidthRules

Limit = float | str
"""A number of at most 1 is a share of the supernet's cost, a larger one is absolute; text with a
unit (``"0.8 ms"``, ``"300 M"``, ``"25 MB"``) is always absolute."""

_COUNTS = {"k": 1e3, "M": 1e6, "G": 1e9}
UNITS: Mapping[str, Mapping[str, float]] = {
    "macs": _COUNTS,
    "num_params": _COUNTS,
    "activation_bytes": {"kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    "latency_ms": {"us": 1e-3, "ms": 1, "s": 1e3},
}
"""Units that a limit on each resource may be written in, and their size in its own unit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Upper limits on resources of the compact network in deploy form; all hold at once."""

    resource: str = "macs"
    """The main resource, one of :data:`search_space.RESOURCES`."""
    limit: Limit
    """Of the main resource: a share of the supernet's cost, or absolute; see :data:`Limit`."""
    also: Mapping[str, Limit] = field(default_factory=dict, hash=False)
    """Limits on further resources, written alike."""

    def __post_init__(self) -> None:
        """Check resources and ranges."""
        check_resource("resource", self.resource)
        read_limit("limit is", self.limit, self.resource)
        for resource, limit in self.also.items():
            check_resource("also", resource)
            if resource == self.resource:
                raise ValueError(f"also has {resource!r}, which limit limits already; leave it out")
            read_limit(f"also.{resource} is", limit, resource)

    def written(self) -> dict[str, Limit]:
        """All limits as they were given, by resource, the main one first."""
        return {self.resource: self.limit, **self.also}

    def limits(self, graph: ChannelGraph) -> dict[str, float]:
        """All limits in units of their resource, the main one first; whole but for latencies.

        Raises:
            ValueError: ``latency_ms`` without a measured table.
        """
        written = self.written().items()
        return {r: absolute_limit(limit, r, float(graph.count(r))) for r, limit in written}

    def absolute_in(self, graph: ChannelGraph) -> Budget:
        """The same limits as absolute ones, for networks sliced from that of ``graph``.

        Raises:
            ValueError: ``latency_ms`` without a measured table.
        """
        limits: dict[str, Limit] = {
            r: f"{limit!r} ms" if r == "latency_ms" else limit
            for r, limit in self.limits(graph).items()
        }
        return Budget(resource=self.resource, limit=limits.pop(self.resource), also=limits)

    def absolute(self, graph: ChannelGraph) -> float:
        """The main limit, as in :meth:`limits`."""
        return absolute_limit(self.limit, self.resource, float(graph.count(self.resource)))


def check_resource(field_name: str, resource: str) -> None:
    """Check that a resource exists.

    Raises:
        ValueError: it does not.
    """
    if resource not in RESOURCES:
        raise ValueError(f"{field_name} is {resource!r}; known: {', '.join(RESOURCES)}")


def read_limit(what: str, limit: Limit, resource: str) -> tuple[float, bool]:
    """Return a limit as a number in units of the resource and whether it is absolute.

    Args:
        what: begins the sentence if the limit is wrong.
        limit: see :data:`Limit`.
        resource: what it limits.

    Raises:
        ValueError: neither a number above 0 nor one with a unit of the resource.
    """
    units = UNITS[resource]
    match = re.fullmatch(r"\s*(.*?[\d.])\s*([A-Za-z]*)\s*", str(limit))
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    unit = match[2] if match else ""
    if not (math.isfinite(number) and number > 0 and (not unit or unit in units)):
        raise ValueError(
            f"{what} {limit!r}; it must be a number above 0, as such or as text with one of the "
            f"units {', '.join(units)}"
        )
    if (factor := units.get(unit, 1)) != 1:
        number = float(f"{number * factor:.12g}")  # 4.1 M are 4,100,000
    return number, bool(unit) or number > 1


def absolute_limit(limit: Limit, resource: str, full: float, what: str = "limit is") -> float:
    """Return a limit in units of its resource, as a whole number but for latencies.

    Args:
        limit: see :data:`Limit`.
        resource: what it limits.
        full: the supernet's cost in the resource.
        what: begins the sentence if the limit is wrong.

    Raises:
        ValueError: as :func:`read_limit`.
    """
    number, is_absolute = read_limit(what, limit, resource)
    cost = number if is_absolute else full * number
    # The nudge, of some units in the last place, keeps 0.1 * 30 from becoming 2.
    return cost if resource == "latency_ms" else math.floor(cost * (1 + 1e-15) + 1e-6)


def keeps_limit(resource: str, cost: float, limit: float) -> bool:
    """Whether a cost is within a limit in its units; latencies, which are sums, may be rounded."""
    return cost <= (limit * (1 + 1e-9) if resource == "latency_ms" else limit)


def check_feasible(graph: ChannelGraph, budget: Budget, rules: WidthRules) -> None:
    """Tell before any training whether some network of the search space meets the budget.

    A limit in ``budget.also`` may lie above the supernet's cost: it holds already.

    Raises:
        ValueError: the rules do not fit the groups, the main limit is above the supernet's cost,
            a limit is below what the floors allow, or all limits together fall into a gap between
            two possible costs.
    """
    fit_widths(graph, budget, rules, graph.full_widths(), {})


def fit_widths(
    graph: ChannelGraph,
    budget: Budget,
    rules: WidthRules,
    widths: Mapping[str, int],
    unit_scores: Mapping[str, Sequence[float]],
) -> dict[str, int]:
    """Move widths as little as possible, by score, until the budget is used but not exceeded.

    First the lowest-scored open blocks are closed until every cost is within its limit; then the
    highest-scored closed blocks that still fit are opened. Ties go to the group with the largest
    (the smallest) share open. Exchanges between pairs of groups close a remaining gap; should
    they not, the move starts over from full widths, unscored, and small networks are tried in all
    widths.

    Args:
        graph: groups and costs.
        budget: the limits to meet.
        rules: floors and divisors.
        widths: where to start, open units by group; rounded to the rules first.
        unit_scores: by group, one score per block of :meth:`WidthRules.step` units (the last may
            be smaller), best block first; groups that are missing count as all zero.

    Returns:
        Open units by group. Every cost is at most its limit, and the cost of at least one
        resource is at least 0.97 of it.

    Raises:
        ValueError: the rules do not fit the groups, or no such widths were found.
    """
    rules.check(graph.groups)
    _check_limits(graph, budget, rules)
    fit = Fit(graph, budget.limits(graph), rules, unit_scores)
    fit.move(widths)
    if not fit.uses_enough():
        # The same for every start and all scores: a budget that is feasible once is so always.
        fit = Fit(graph, budget.limits(graph), rules, {})
        fit.move(graph.full_widths())
        fit.try_all_widths()
    if not fit.uses_enough():
        resource, cost = fit.most_used()
        limit = _shown(resource, fit.limits[resource])
        raise ValueError(
            f"limit {_written(budget, resource)} seems to fall between two possible costs: "
            f"{_shown(resource, cost)} is the largest found below {limit}, less than "
            f"{LOWEST_USE:.0%} of it; choose another limit, a smaller divisor or a wider supernet"
        )
    return fit.widths()


def _shown(resource: str, cost: float) -> str:
    """A cost as text: whole numbers in full, latencies to four digits."""
    return f"{cost:.4g}" if resource == "latency_ms" else f"{cost:.0f}"


def _written(budget: Budget, resource: str) -> str:
    limit = budget.written()[resource]
    return f"{limit if isinstance(limit, str) else format(limit, 'g')} of {resource}"


def _check_limits(graph: ChannelGraph, budget: Budget, rules: WidthRules) -> None:
    """Check every limit against the supernet's cost and the least that the rules allow."""
    floors = {group.name: rules.lowest(group) for group in graph.groups}
    for resource, limit in budget.limits(graph).items():
        written, cost = _written(budget, resource), _shown(resource, limit)
        full, least = graph.count(resource), graph.count(resource, floors)
        if limit > full and resource == budget.resource:
            raise ValueError(
                f"limit {written} is above the supernet's own {_shown(resource, full)}; "
                "choose a smaller limit"
            )
        if least > limit:
            share = math.ceil(least / full * 1e4) / 1e4  # so that it can be asked for
            as_number = budget.written()[resource]
            absolute = isinstance(as_number, float | int) and as_number > 1
            raise ValueError(
                f"limit {written} ({'absolute, as it is above 1: ' if absolute else ''}{cost}) is "
                f"below {_shown(resource, least)} ({share:.4f} of the supernet), the "
                f"least that {_smallest(rules)} per layer allows; raise the limit or lower them"
            )


def _smallest(rules: WidthRules) -> str:
    own = " or those of width_rules.groups" if rules.groups else ""
    return f"the floor of {rules.floor:g} with divisor {rules.divisor}{own}"
