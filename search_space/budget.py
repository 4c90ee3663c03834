"""Budgets: a limit on a resource, and the widths that meet it exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
        raise ValueError(
            f"limit {budget.limit:g} of {budget.resource} ({limit}) is below {least} "
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
    highest-scored closed units that still fit are opened. A final exchange between pairs of
    groups closes a remaining gap.

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
    fit.start_from(widths)
    fit.close_until_within()
    fit.open_while_within()
    if fit.cost() < LOWEST_USE * fit.limit:
        fit.exchange()
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
        while True:
            fitting = [
                n
                for n, w in self.widths.items()
                if w + self.unit[n] <= self.size[n]
                and self.cost({n: w + self.unit[n]}) <= self.limit
            ]
            if not fitting:
                return
            name = max(
                fitting, key=lambda n: (self.first_closed(n), -self.widths[n] / self.size[n])
            )
            self.widths[name] += self.unit[name]

    def exchange(self) -> None:
        """Close up to two units of one group and open up to three of another, for the best use."""
        best: tuple[int, dict[str, int]] | None = None
        for down in self.widths:
            for up in self.widths:
                for close in (0, 1, 2):
                    for open_ in (1, 2, 3):
                        changes = self._changes(down, close, up, open_)
                        cost = self.cost(changes) if changes else 0
                        if changes and cost <= self.limit and (best is None or cost > best[0]):
                            best = (cost, changes)
        if best is not None and best[0] > self.cost():
            self.widths.update(best[1])
        if self.cost() < LOWEST_USE * self.limit:
            raise ValueError(
                f"limit {self.budget.limit:g} of {self.budget.resource} falls between two possible "
                f"costs: {self.cost()} is the largest found below {self.limit}, less than "
                f"{LOWEST_USE:.0%} of it; choose another limit, a smaller divisor or a wider "
                "supernet"
            )

    def _changes(self, down: str, close: int, up: str, open_: int) -> dict[str, int] | None:
        if down == up:
            return None
        lower = self.widths[down] - close * self.unit[down]
        higher = self.widths[up] + open_ * self.unit[up]
        if lower < self.lowest[down] or higher > self.size[up]:
            return None
        return {down: lower, up: higher}
