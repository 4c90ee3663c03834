"""Measuring a network's operators at a grid of widths, each timed by itself, in turns.

The whole network is measured too, at full width, because the times of operators do not quite add
up to it: see :mod:`search_space.latency`.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import nn

from search_space.channel_graph import ChannelGraph
from search_space.fakes import first_line
from search_space.fuse import reparameterize
from search_space.latency import LatencyCost, LatencyGrid, LatencyTable
from search_space.latency_target import LatencyTarget, read_table, write_table
from search_space.operator_run import Run, operator_run, scope_run
from search_space.operators import Operator, network_signature

SHARES = tuple(Fraction(eighths, 8) for eighths in (1, 2, 4, 6, 8))
"""Shares of an operator's channels at which it is measured, besides the least there can be."""
STAIR = 16
"""Channels after which a kernel needs another block: float32 vectors of AVX-512, tensor cores."""
REPEATS = (3, 30)
"""Least and most timed calls per point; between them the time allowed decides."""
WHOLE_SHARE = 0.1
"""Share of the time allowed that is kept for the network as a whole."""

Progress = Callable[[int, int], None]


def measure_latency_table(
    graph: ChannelGraph,
    model: nn.Module,
    target: LatencyTarget = LatencyTarget(),  # noqa: B008 - frozen
    *,
    cache_folder: Path | None = None,
    seconds: float = 120.0,
    progress: Progress | None = None,
) -> LatencyTable:
    """Measure every operator of a network, and the network as a whole at full width.

    torch's CPU threads are set for the whole process while this runs and restored after. Nothing
    else should run on the device; with one CPU thread, its own CPU time counts, so that other
    work disturbs less.

    Args:
        graph: of ``model``.
        model: left untouched; its copy is measured, in evaluation mode and deploy form.
        target: what to measure on.
        cache_folder: where tables are kept, one JSON file per device; what is found there is not
            measured again. ``None`` keeps nothing.
        seconds: how long it may take, roughly: the more there is to measure, the fewer repeats.
            Each point takes at least the time of four calls.
        progress: called with (rounds done, of how many) before each round of the operators.

    Returns:
        All that is known of the device, of other networks too.

    Raises:
        ValueError: ``seconds`` is not positive, the device does not exist, the cache is not
            readable, or an operator does not run; one sentence.
    """
    if not seconds > 0:
        raise ValueError(f"seconds is {seconds}; it must be positive")
    target.check()
    table = read_table(cache_folder, target)
    missing = {operator.signature for operator in graph.operators} - table.grids.keys()
    network = network_signature(graph.operators)
    if missing:
        with _threads(target.num_threads), torch.inference_mode():
            measured = _measure(
                graph.operators, missing, target, seconds * (1 - WHOLE_SHARE), progress
            )
        table = replace(table, grids={**table.grids, **measured})
    if network not in table.factors:
        whole = measure_whole_ms(graph, model, target, seconds * WHOLE_SHARE)
        factor = whole / _sum_ms(graph, table)
        table = replace(table, factors={**table.factors, network: factor})
    write_table(cache_folder, target, table)
    return table


def measure_whole_ms(
    graph: ChannelGraph, model: nn.Module, target: LatencyTarget, seconds: float = 10.0
) -> float:
    """Median milliseconds of one pass of a batch through a network in deploy form.

    Args:
        graph: says what reaches the network, or each of its searched parts (whose times add up).
        model: the graph's network, or the same with fewer channels; left untouched.
        target: what to measure on.
        seconds: how long it may take, roughly.
    """
    deployed = reparameterize(model).to(target.device, target.torch_dtype)
    if target.channels_last:
        deployed = deployed.to(memory_format=torch.channels_last)
    total = 0.0
    with _threads(target.num_threads), torch.inference_mode():
        for inputs in graph.inputs:
            run = scope_run(deployed.get_submodule(inputs.scope), inputs, target)
            total += time_ms(run, target, seconds / len(graph.inputs), most=10 * REPEATS[1])
    return total


def time_ms(run: Run, target: LatencyTarget, seconds: float, *, most: int = REPEATS[1]) -> float:
    """Median milliseconds of a call, after at least one that is not timed."""
    first = _timed(run, target)
    repeats = max(REPEATS[0], min(most, int(seconds * 1e3 / max(first, 1e-3))))
    for _ in range(repeats // 5):
        run()
    return statistics.median(_timed(run, target) for _ in range(repeats))


def _timed(run: Run, target: LatencyTarget) -> float:
    if torch.device(target.device).type == "cuda":
        start, end = (torch.Event(target.device, enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(target.device)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize(target.device)
        return float(start.elapsed_time(end))
    # One thread's own CPU time leaves out what else the machine does meanwhile.
    clock = time.thread_time_ns if target.num_threads == 1 else time.perf_counter_ns
    begin = clock()
    run()
    return (clock() - begin) / 1e6


class _Subject:
    """An operator while it is measured."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.sides = grid_of(operator, 0), grid_of(operator, 1)
        self.points = list(itertools.product(*self.sides))
        self.samples: dict[tuple[int, int], list[float]] = {}

    def run(self, index: int, target: LatencyTarget) -> tuple[tuple[int, int], Run]:
        """Return a point, by its index around the grid, and a call that was made once.

        An operator that runs at full width only (its code names sizes) is measured there and
        taken to be as slow at any width.

        Raises:
            ValueError: it does not run at full width either.
        """
        point = self.points[index % len(self.points)]
        try:
            run = operator_run(self.operator, point, target)
            run()
        except Exception as error:
            full = self.operator.full
            if point == full:
                raise ValueError(
                    f"operator {self.operator.name!r} cannot be measured: {first_line(error)}"
                ) from error
            self.sides, self.points, self.samples = (full[:1], full[1:]), [full], {}
            return self.run(0, target)
        return point, run

    def grid(self) -> LatencyGrid:
        """Return the medians."""
        read, written = self.sides
        ms = tuple(tuple(statistics.median(self.samples[r, w]) for w in written) for r in read)
        return LatencyGrid(read, written, ms)


def _measure(
    operators: Sequence[Operator],
    missing: Collection[str],
    target: LatencyTarget,
    seconds: float,
    progress: Progress | None,
) -> dict[str, LatencyGrid]:
    """Return the grids of the missing operators, by signature.

    All operators of the network take turns in its order, each with tensors of its own, all at
    about the same share of their channels and each holding its result until the next has run. So
    they find caches and memory as in the network; alone in a loop they would be too fast.
    """
    subjects = {operator.signature: _Subject(operator) for operator in operators}
    wanted = [subjects[signature] for signature in missing]
    rounds = max(len(subject.points) for subject in wanted)
    end = time.perf_counter() + seconds
    for done in range(rounds):
        if progress:
            progress(done, rounds)
        result: list[Any] = [None]
        turns = []
        for operator in operators:
            subject = subjects[operator.signature]
            point, run = subject.run(done, target)
            turns.append((subject, point, _keeping(run, result)))
        start = time.perf_counter()
        for _, _, run in turns:
            run()
        one = time.perf_counter() - start
        allowed = (end - start) / (rounds - done)
        for _ in range(max(REPEATS[0], min(REPEATS[1], int(allowed / one)))):
            for subject, point, run in turns:
                subject.samples.setdefault(point, []).append(_timed(run, target))
    return {subject.operator.signature: subject.grid() for subject in wanted}


def _keeping(run: Run, result: list[Any]) -> Run:
    def run_and_keep() -> None:
        result[0] = run()

    return run_and_keep


def grid_of(operator: Operator, side: int) -> tuple[int, ...]:
    """Channels at which one side of an operator is measured: whole steps, ascending.

    Kernels work on blocks of channels, so that time rises in stairs: each share is measured at
    the end of a stair and at the start of the next.
    """
    full, step = operator.full[side], operator.step[side]
    if not (operator.read, operator.written)[side].per_unit:
        return (full,)
    block = STAIR // math.gcd(STAIR, step)
    units = {1, full // step}
    for share in SHARES:
        unit = round(share * full / step)
        ends = round(unit / block) * block
        units |= {unit} if unit < block else {ends, ends + 1}
    return tuple(step * unit for unit in sorted(units) if 1 <= unit <= full // step)


def _sum_ms(graph: ChannelGraph, table: LatencyTable) -> float:
    groups = [group.name for group in graph.groups]
    sizes = torch.tensor([group.size for group in graph.groups], dtype=torch.float64)
    return float(LatencyCost(graph.operators, groups, table)(sizes))


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
