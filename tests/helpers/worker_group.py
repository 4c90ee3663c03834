"""Functions run by several processes that are joined in one process group, as workers are."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import distributed


def run_in_group(folder: Path, num_workers: int, call: Callable[..., Any], *args: Any) -> list[Any]:
    """Return what ``call(*args)`` returned on each of the workers; it must be importable."""
    meeting = folder / f"meeting-{num_workers}-{call.__name__}"
    joined = [
        _pool(num_workers).submit(_joined, meeting, rank, num_workers, call, *args)
        for rank in range(num_workers)
    ]
    return [future.result(timeout=240) for future in joined]


@functools.cache
def _pool(num_workers: int) -> ProcessPoolExecutor:
    """Processes that stay: importing torch takes longer than what they are asked."""
    return ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"))


def _joined(
    meeting: Path, rank: int, num_workers: int, call: Callable[..., Any], *args: Any
) -> Any:
    torch.set_num_threads(1)
    where = f"file://{meeting}"
    distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=num_workers)
    try:
        return call(*args)
    finally:
        distributed.destroy_process_group()
