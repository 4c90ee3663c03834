"""How long one forward pass takes on this machine."""

from __future__ import annotations

import copy
import statistics
import time
from typing import Any

import torch
from torch import nn

from deploy.eval_mode import inference


def median_pass_ms(
    network: nn.Module,
    inputs: Any,
    *,
    repeats: int = 50,
    warmup: int = 10,
    num_threads: int = 1,
    device: str | torch.device = "cpu",
) -> float:
    """Median wall time of one forward pass, in milliseconds.

    A copy is measured: the network keeps its device and its training flags. torch's CPU threads
    are set for the whole process while this runs and restored after.

    Args:
        network: what is measured.
        inputs: what it takes, on the device already.
        repeats: timed passes, at least 1.
        warmup: passes before them that are not timed.
        num_threads: CPU threads torch may use.
        device: where to run; a CUDA device is synchronised around each pass.
    """
    place = torch.device(device)
    measured = copy.deepcopy(network).to(place)
    threads = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        with inference(measured):
            for _ in range(warmup):
                _timed_ms(measured, inputs, place)
            return statistics.median(_timed_ms(measured, inputs, place) for _ in range(repeats))
    finally:
        torch.set_num_threads(threads)


def _timed_ms(network: nn.Module, inputs: Any, device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter_ns()
    network(inputs)
    _synchronize(device)
    return (time.perf_counter_ns() - start) / 1e6


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
