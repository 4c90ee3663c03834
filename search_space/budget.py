"""Budgets: a limit on a resource, and the widths that meet it exactly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from search_space.channel_graph import RESOURCES, ChannelGraph

LOWEST_USE = 0.97
"""A finished trial costs between this share of its limit and the whole of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WidthRules:
    """What a width may be, for every channel group alike."""

    floor: float = 1 / 16
    """Least share of a group that stays open, in (0, 1]; at least one channel always does."""
    divisor: int = 1
    """Widths are multiples of this (8 or 16 suit GPUs), or of its greatest common divisor with the
    group's size where that is no multiple itself."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.floor <= 1:
            raise ValueError(f"floor is {self.floor}; it must be in (0, 1]")
        if self.divisor < 1:
            raise ValueError(f"divisor is {self.divisor}; it must be at least 1")

    def unit(self, size: int) -> int:
        """Channels that open or close at once in a group of ``size`` channels."""
        return math.gcd(self.divisor, size)

    def lowest(self, size: int) -> int:
        """Least width of a group of ``size`` channels."""
        unit = self.unit(size)
        return max(unit, math.ceil(size * self.floor / unit - 1e-9) * unit)


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """An upper limit on one resource of the compact network in deploy form."""

    resource: str = "macs"
    """``macs`` (multiply-adds for one image) or ``num_params``."""
    limit: float
    """At most 1: a share of the supernet's cost. Above 1: absolute."""

    def __post_init__(self) -> None:
        """Check resource and range."""
        if self.resource not in RESOURCES:
            known = ", ".join(RESOURCES)
            raise ValueError(f"resource is {self.resource!r}; known: {known}")
        if not (math.isfinite(self.limit) and self.limit > 0):
            raise ValueError(f"limit is {self.limit}; it must be a number above 0")

    def absolute(self, graph: ChannelGraph) -> int:
        """The limit in units of the resource."""
        full = graph.count(self.resource)
        return math.floor(full * self.limit + 1e-6) if self.limit <= 1 else math.floor(self.limit)


def check_feasible(graph: ChannelGraph, budget: Budget, rules: WidthRules) -> None:
    """Tell before any training whether some network of the search space meets the budget.

    Raises:
        ValueError: the limit is above the supernet's cost, below what the floor allows, or falls
            into a gap between two possible costs.
    """
    limit, full = budget.absolute(graph), graph.count(budget.resource)
    if limit > full:
        raise ValueError(
            f"limit {budget.limit:g} of {budget.resource} is above the supernet's own {full}; "
            "choose a smaller limit"
        )
    floors = {g.name: rules.lowest(g.size) for g in graph.groups}
    least = graph.count(budget.resource, floors)
    if least > limit:
        meant = f"absolute, as it is above 1: {limit}" if budget.limit > 1 else str(limit)
        raise ValueError(
            f"limit {budget.limit:g} of {budget.resource} ({meant}) is below {least} "
            f"({least / full:.4f} of the supernet), the least that the floor of "
            f"{rules.floor:g} per layer allows; raise the limit or lower the floor"
        )
    fit_widths(graph, budget, rules, graph.uniform_widths(budget.resource, limit), {})


def fit_widths(
    graph: ChannelGraph,
    budget: Budget,
    rules: WidthRules,
    widths: Mapping[str, int],
    unit_scores: Mapping[str, list[float]],
) -> dict[str, int]:
    """Move widths as little as possible, by score, until the budget is used but not exceeded.

    First the lowest-scored open units are closed until the cost is within the limit; then the
    highest-scored closed units that still fit are opened. Exchanges between pairs of groups
    close a remaining gap; should they not, the move starts over from uniform widths, unscored.

    Args:
        graph: groups and costs.
        budget: the limit to meet.
        rules: floor and divisor.
        widths: where to start, by group; rounded to the rules first.
        unit_scores: by group, one score per unit of :meth:`WidthRules.unit` channels, best unit
            first; groups that are missing count as all zero.

    Returns:
        Widths whose cost is within [0.97, 1.00] of the limit.

    Raises:
        ValueError: no such widths were found.
    """
    fit = _Fit(graph, budget, rules, unit_scores)
    fit.move(widths)
    if not fit.uses_enough():
        # What check_feasible tries: a limit that it accepts is met from every start.
        fit = _Fit(graph, budget, rules, {})
        fit.move(graph.uniform_widths(budget.resource, fit.limit))
    if not fit.uses_enough():
        raise ValueError(
            f"limit {budget.limit:g} of {budget.resource} falls between two possible costs: "
            f"{fit.cost()} is the largest found below {fit.limit}, less than {LOWEST_USE:.0%} of "
            "it; choose another limit, a smaller divisor or a wider supernet"
        )
    return dict(fit.widths)


class _Fit:
    """State of :func:`fit_widths`."""

    def __init__(
        self,
        graph: ChannelGraph,
        budget: Budget,
        rules: WidthRules,
        unit_scores: Mapping[str, list[float]],
    ) -> None:
        self.graph, self.budget = graph, budget
        self.limit = budget.absolute(graph)
        self.size = {g.name: g.size for g in graph.groups}
        self.unit = {name: rules.unit(size) for name, size in self.size.items()}
        self.lowest = {name: rules.lowest(size) for name, size in self.size.items()}
        self.scores = unit_scores
        self.widths: dict[str, int] = {}

    def move(self, widths: Mapping[str, int]) -> None:
        self.start_from(widths)
        self.close_until_within()
        self.open_while_within()
        self.exchange()

    def start_from(self, widths: Mapping[str, int]) -> None:
        for name, size in self.size.items():
            unit = self.unit[name]
            rounded = round(widths[name] / unit) * unit
            self.widths[name] = min(size, max(self.lowest[name], rounded))

    def cost(self, changes: Mapping[str, int] | None = None) -> int:
        """Cost with the widths in ``changes`` put in place of the current ones."""
        widths = self.widths if changes is None else {**self.widths, **changes}
        return self.graph.count(self.budget.resource, widths)

    def score(self, name: str, unit_index: int) -> float:
        scores = self.scores.get(name)
        return scores[unit_index] if scores else 0.0

    def last_open(self, name: str) -> float:
        """Score of the unit that closes next."""
        return self.score(name, self.widths[name] // self.unit[name] - 1)

    def first_closed(self, name: str) -> float:
        """Score of the unit that opens next."""
        return self.score(name, self.widths[name] // self.unit[name])

    def close_until_within(self) -> None:
        while self.cost() > self.limit:
            closable = [n for n, w in self.widths.items() if w - self.unit[n] >= self.lowest[n]]
            if not closable:
                raise ValueError(f"limit {self.limit} is below what the floor allows")
            # Ties go to the group that has the largest share open, so that none is emptied first.
            name = min(closable, key=lambda n: (self.last_open(n), -self.widths[n] / self.size[n]))
            self.widths[name] -= self.unit[name]

    def open_while_within(self) -> None:
        while (name := self._next_to_open()) is not None:
            self.widths[name] += self.unit[name]

    def _next_to_open(self) -> str | None:
        """Group of the best closed unit that fits; ties go to the smallest share open."""
        closed = [n for n, w in self.widths.items() if w + self.unit[n] <= self.size[n]]
        closed.sort(
            key=lambda n: (self.first_closed(n), -self.widths[n] / self.size[n]), reverse=True
        )
        fits = (n for n in closed if self.cost({n: self.widths[n] + self.unit[n]}) <= self.limit)
        return next(fits, None)

    def uses_enough(self) -> bool:
        return self.cost() >= LOWEST_USE * self.limit

    def exchange(self) -> None:
        """Trade units between pairs of groups until enough is used or no trade uses more."""
        while not self.uses_enough():
            best = max(self._trades(), key=self.cost, default=None)
            if best is None or self.cost(best) <= self.cost():
                return
            self.widths.update(best)

    def _trades(self) -> Iterator[dict[str, int]]:
        """Close up to two units of one group, open up to three of another, within the limit."""
        for down, up in itertools.permutations(self.widths, 2):
            for close, open_ in itertools.product((0, 1, 2), (1, 2, 3)):
                lower = self.widths[down] - close * self.unit[down]
                higher = self.widths[up] + open_ * self.unit[up]
                trade = {down: lower, up: higher}
                allowed = lower >= self.lowest[down] and higher <= self.size[up]
                if allowed and self.cost(trade) <= self.limit:
                    yield trade
