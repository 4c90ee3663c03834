"""Which widths a channel group may have: floors and divisors."""

from __future__ import annotations

import glob
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from search_space.channel_graph import ChannelGroup


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupRules:
    """What differs for some groups; ``None`` leaves what holds for all."""

    floor: float | None = None
    """Least share of the group that stays open, in (0, 1]."""
    divisor: int | None = None
    """Widths are multiples of so many channels."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_ranges(self.floor, self.divisor)


@dataclass(frozen=True, kw_only=True, slots=True)
class WidthRules:
    """What a width may be.

    A group's possible widths are the multiples of the divisor from the floor up, and the full
    width, whether or not the divisor divides it: the supernet stays within the search space, and
    every layer that lost a channel is a multiple.
    """

    floor: float = 1 / 16
    """Least share of a group that stays open, in (0, 1]; at least one unit always does."""
    divisor: int = 1
    """Widths are multiples of so many channels (8 or 16 suit GPUs). Where a unit stands for
    several channels, steps are the least common multiple of both."""
    groups: Mapping[str, GroupRules] = field(
        default_factory=dict, hash=False, metadata={"ordered": True}
    )
    """What differs for groups whose name is, or matches, a pattern (``layer4.*``); where several
    patterns match, later ones win."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_ranges(self.floor, self.divisor)

    def floor_of(self, group: ChannelGroup) -> float:
        """Least share of the group that stays open."""
        given = [r.floor for r in self._matching(group) if r.floor is not None]
        return given[-1] if given else self.floor

    def divisor_of(self, group: ChannelGroup) -> int:
        """Divisor of the group's width, in channels."""
        given = [r.divisor for r in self._matching(group) if r.divisor is not None]
        return given[-1] if given else self.divisor

    def step(self, group: ChannelGroup) -> int:
        """Units that open or close at once; those above the last multiple go as one, too."""
        channels = group.channels_per_unit
        return math.lcm(self.divisor_of(group), channels) // channels

    def lowest(self, group: ChannelGroup) -> int:
        """Least width of the group, in units."""
        step, share = self.step(group), self.floor_of(group)
        steps = max(1, math.ceil(math.ceil(group.size * share - 1e-9) / step))
        return min(group.size, steps * step)

    def check(self, groups: Sequence[ChannelGroup]) -> None:
        """Check that the rules fit these groups.

        Raises:
            ValueError: a pattern matches no group, or a group has no multiple of its divisor.
        """
        for pattern in self.groups:
            if not any(_matches(group, pattern) for group in groups):
                known = ", ".join(group.name for group in groups[:3])
                raise ValueError(
                    f"width_rules.groups has {pattern!r}, which matches no channel group; "
                    f"their names are like {known}"
                )
        small = [group for group in groups if self.step(group) > group.size]
        if small:
            group = small[0]
            per_unit = group.channels_per_unit
            units = f", {per_unit} at a time" if per_unit > 1 else ""
            more = f" (nor in {len(small) - 1} more groups)" if small[1:] else ""
            raise ValueError(
                f"divisor {self.divisor_of(group)} of width_rules is larger than a layer: "
                f"{group.name} has {group.size * per_unit} channels{units}, and no "
                f"multiple of it fits{more}; lower it, or set another for these groups in "
                "width_rules.groups"
            )

    def for_narrower(
        self, groups: Sequence[ChannelGroup], narrower: Sequence[ChannelGroup]
    ) -> WidthRules:
        """Return rules that allow a network sliced to ``narrower`` what these allow ``groups``.

        Floors stay where they are, as shares of the smaller sizes.
        """
        sizes = {group.name: group.size for group in narrower}
        same = {
            glob.escape(group.name): GroupRules(
                floor=min(1.0, self.lowest(group) / sizes[group.name]),
                divisor=self.divisor_of(group),
            )
            for group in groups
        }
        return WidthRules(floor=self.floor, divisor=self.divisor, groups=same)

    def _matching(self, group: ChannelGroup) -> list[GroupRules]:
        return [rules for pattern, rules in self.groups.items() if _matches(group, pattern)]


def _matches(group: ChannelGroup, pattern: str) -> bool:
    # Names may hold brackets, which a pattern reads as a set of characters.
    return group.name == pattern or fnmatchcase(group.name, pattern)


def _check_ranges(floor: float | None, divisor: int | None) -> None:
    if floor is not None and not 0 < floor <= 1:
        raise ValueError(f"floor is {floor}; it must be in (0, 1]")
    if divisor is not None and not (isinstance(divisor, int) and divisor >= 1):
        raise ValueError(f"divisor is {divisor}; it must be a whole number of at least 1")
