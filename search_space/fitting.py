"""The widths that meet a budget exactly.

The units of a group open and close in blocks, in the order of their scores: the width of a group
is its *level*, the number of its open blocks. All candidates of a step are evaluated in one batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from search_space.channel_graph import ChannelGraph
from search_space.width_rules import WidthRules

LOWEST_USE = 0.97
"""A finished trial costs between this share of a limit and the whole of it."""

_MAX_TRADES = 2048
"""Trades between two groups that are evaluated at once."""
_MAX_NETWORKS = 2**16
"""Search spaces of at most so many networks are tried in full before a budget is refused."""


class Fit:
    """Levels that are moved onto the limits, long (groups,).

    Args:
        graph: groups and costs.
        limits: by resource, in its unit; the floors are within all of them.
        rules: floors and divisors.
        unit_scores: see :func:`search_space.fit_widths`.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        limits: Mapping[str, float],
        rules: WidthRules,
        unit_scores: Mapping[str, Sequence[float]],
    ) -> None:
        self.graph = graph
        self.limits = dict(limits)
        self.size = torch.tensor([group.size for group in graph.groups])
        self.step = torch.tensor([rules.step(group) for group in graph.groups])
        lowest = torch.tensor([rules.lowest(group) for group in graph.groups])
        self.lowest, self.highest = _levels(lowest, self.step), _levels(self.size, self.step)
        self.levels = self.highest.clone()
        # Every block once, with the level that its group has when it is open and all better ones.
        self.group = torch.arange(len(self.size)).repeat_interleave(self.highest)
        first = self.highest.cumsum(0) - self.highest
        self.level = torch.arange(len(self.group)) - first[self.group] + 1
        score = torch.cat(
            [
                _block_scores(group.name, unit_scores.get(group.name), count)
                for group, count in zip(graph.groups, self.highest.tolist(), strict=True)
            ]
        )
        size, step = self.size[self.group].double(), self.step[self.group]
        share = torch.minimum(size, self.level * step) / size
        share_before = (self.level - 1) * step / size
        self.closing_order = _sort(score, -share)
        self.opening_order = _sort(-score, share_before)

    def units(self, levels: Tensor) -> Tensor:
        """Open units at levels (..., groups), same shape."""
        return torch.minimum(self.size, levels * self.step)

    def widths(self) -> dict[str, int]:
        """Return the open units by group."""
        widths = self.units(self.levels).tolist()
        return {g.name: w for g, w in zip(self.graph.groups, widths, strict=True)}

    def move(self, widths: Mapping[str, int]) -> None:
        """Set the levels, starting from ``widths``."""
        start = torch.tensor([widths[group.name] for group in self.graph.groups])
        below = start // self.step
        rounds_up = 2 * start >= self.units(below) + self.units(below + 1)
        self.levels = (below + rounds_up).clamp(self.lowest, self.highest)
        self._close_until_within()
        self._open_while_within()
        used = 0.0
        while used < (used := float(self.use(self.levels).max())) < LOWEST_USE and self._trade():
            self._open_while_within()

    def use(self, levels: Tensor) -> Tensor:
        """Cost over limit, (..., resources), at levels (..., groups)."""
        widths = self.units(levels).double()
        costs = [self.graph.evaluate(r, widths) / limit for r, limit in self.limits.items()]
        return torch.stack(costs, -1)

    def within(self, levels: Tensor) -> Tensor:
        """Whether all limits hold; the tolerance is for costs that are no whole numbers."""
        return (self.use(levels) <= 1 + 1e-14).all(-1)

    def uses_enough(self) -> bool:
        """Whether at least one limit is used up to 0.97."""
        return bool((self.use(self.levels) >= LOWEST_USE).any())

    def most_used(self) -> tuple[str, float]:
        """Return the resource that is nearest to its limit, and its cost."""
        resource = list(self.limits)[int(self.use(self.levels).argmax())]
        return resource, self.graph.count(resource, self.widths())

    def _close_until_within(self) -> None:
        if self.within(self.levels):
            return
        order = self.closing_order
        level, group = self.level[order], self.group[order]
        order = order[(level <= self.levels[group]) & (level > self.lowest[group])]
        self._move_along(order, -1, good=len(order), bad=0)

    def _open_while_within(self) -> None:
        one_more = torch.eye(len(self.levels), dtype=torch.long)
        while True:
            fits = (self.levels < self.highest) & self.within(self.levels + one_more)
            if not fits.any():
                return
            # A group whose next block does not fit now cannot fit after others have opened.
            order = self.opening_order
            level, group = self.level[order], self.group[order]
            order = order[(level > self.levels[group]) & fits[group]]
            self._move_along(order, 1, good=1, bad=len(order) + 1)

    def _move_along(self, order: Tensor, sign: int, *, good: int, bad: int) -> None:
        """Close (-1) or open (1) the first blocks of ``order``.

        Bisection finds how many: between ``good``, a number that is within the limits, and
        ``bad``, one that is not; what it ends with is within even if costs are not monotonic.
        """
        start = self.levels

        def moved(count: int) -> Tensor:
            groups = self.group[order[:count]]
            return start + sign * torch.bincount(groups, minlength=len(start))

        while abs(good - bad) > 1:
            middle = (good + bad) // 2
            if self.within(moved(middle)):
                good = middle
            else:
                bad = middle
        self.levels = moved(good)

    def _trade(self) -> bool:
        """Close up to two blocks of one group, open up to three of another; use as much as fits.

        Returns:
            Whether a trade uses more than now.
        """
        one = torch.eye(len(self.levels), dtype=torch.long)
        down = torch.cat([torch.zeros_like(one[:1]), -one, -2 * one])
        up = torch.cat([one, 2 * one, 3 * one])
        down = down[(self.levels + down >= self.lowest).all(1)]
        up = up[(self.levels + up <= self.highest).all(1)]
        if not len(up):
            return False
        now = self.use(self.levels)
        effect_down, effect_up = (self.use(self.levels + move) - now for move in (down, up))
        # Effects of two groups nearly add up, which tells the trades worth a full evaluation.
        predicted = (now + effect_down[:, None] + effect_up).amax(-1)
        nearest = (predicted - 1).abs().flatten().argsort(stable=True)[:_MAX_TRADES]
        trades = self.levels + down[nearest // len(up)] + up[nearest % len(up)]
        used = self.use(trades).amax(-1).masked_fill(~self.within(trades), 0)
        if used.max() <= now.max():
            return False
        self.levels = trades[used.argmax()]
        return True

    def try_all_widths(self) -> None:
        """Take the widths that use most, if not enough is used and there are few to choose from."""
        counts = (self.highest - self.lowest + 1).tolist()
        if self.uses_enough() or math.prod(counts) > _MAX_NETWORKS:
            return
        levels = torch.cartesian_prod(
            *(
                torch.arange(int(a), int(b) + 1)
                for a, b in zip(self.lowest, self.highest, strict=True)
            )
        ).reshape(-1, len(counts))
        used = self.use(levels).amax(-1).masked_fill(~self.within(levels), 0)
        self.levels = levels[used.argmax()]


def _block_scores(name: str, scores: Sequence[float] | None, num_blocks: int) -> Tensor:
    if scores is None:
        return torch.zeros(num_blocks, dtype=torch.float64)
    if len(scores) != num_blocks:
        raise ValueError(
            f"unit_scores[{name!r}] has {len(scores)} scores; the group has {num_blocks} blocks"
        )
    return torch.as_tensor(scores, dtype=torch.float64)


def _levels(widths: Tensor, steps: Tensor) -> Tensor:
    """Blocks in a width, the last of which may be smaller."""
    return (widths + steps - 1) // steps


def _sort(first: Tensor, second: Tensor) -> Tensor:
    """Order by the first key, among equals by the second, then by place."""
    order = second.argsort(stable=True)
    return order[first[order].argsort(stable=True)]
