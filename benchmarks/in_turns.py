"""Timing of rivals in one run: they take turns, so whatever the machine does hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

WARM_UP = 2
"""Rounds that are not timed."""


def time_in_turns(
    runs: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float],
    calls: int = 1,
) -> dict[str, list[float]]:
    """Return seconds per call, one figure per round, by rival; each round starts with another.

    Args:
        runs: what is timed, by name.
        rounds: timed rounds.
        clock: see :func:`clock_of`.
        calls: of each rival in each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    for turn in range(rounds + WARM_UP):
        for name in order:
            start = clock()
            for _ in range(calls):
                runs[name]()
            if turn >= WARM_UP:
                seconds[name].append((clock() - start) / calls)
        order = order[1:] + order[:1]
    return seconds


def quartiles_of_ratio(over: list[float], under: list[float]) -> tuple[float, float, float]:
    """Return the quartiles of ``over / under``, each ratio formed within its round."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(over, under, strict=True)], n=4)
    return low, middle, high


def clock_of(device: torch.device, threads: int) -> Callable[[], float]:
    """Return a clock in seconds: one CPU thread's own time, else wall time after all work."""
    if device.type == "cuda":

        def after_all_work() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()

        return after_all_work
    return time.process_time if threads == 1 else time.perf_counter
