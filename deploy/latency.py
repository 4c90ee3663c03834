"""How long one forward pass takes on this machine."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from deploy.eval_mode import inference


def measure_latency_ms(
    network: nn.Module,
    image_shape: Sequence[int],
    *,
    batch_size: int = 1,
    repeats: int = 50,
    warmup: int = 10,
    num_threads: int = 1,
    device: str | torch.device = "cpu",
) -> float:
    """Median wall time of one forward pass of one batch, in milliseconds.

    A copy is measured: the network keeps its device and its training flags. torch's CPU threads
    are set for the whole process while this runs and restored after; its random state is not used.

    Args:
        network: takes (N, C, H, W) float32.
        image_shape: (C, H, W) of one image.
        batch_size: N; the result is the time of the whole batch.
        repeats: timed passes.
        warmup: passes before them that are not timed.
        num_threads: CPU threads torch may use.
        device: where to run; a CUDA device is synchronised around each pass.

    Raises:
        ValueError: a count is out of range, or ``image_shape`` has not three sizes.
    """
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"image_shape is {tuple(image_shape)}; it must be (C, H, W)")
    if min(batch_size, repeats, num_threads) < 1 or warmup < 0:
        raise ValueError("batch_size, repeats, num_threads must be at least 1, warmup at least 0")
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((batch_size, *image_shape), generator=generator).to(device)
    return median_pass_ms(
        network, images, repeats=repeats, warmup=warmup, num_threads=num_threads, device=device
    )


def median_pass_ms(
    network: nn.Module,
    inputs: Any,
    *,
    repeats: int = 50,
    warmup: int = 10,
    num_threads: int = 1,
    device: str | torch.device = "cpu",
) -> float:
    """As :func:`measure_latency_ms`, of whatever the network takes, on the device already."""
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
