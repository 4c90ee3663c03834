from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from deploy import median_pass_ms


class Sleeps(nn.Module):
    """Takes a known time; every third call takes far longer. Remembers how it was called."""

    calls: list[tuple[tuple[int, ...], bool, bool, int]] = []  # noqa: RUF012 - shared by copies

    def forward(self, x: Tensor) -> Tensor:
        slow = len(self.calls) % 3 == 2
        state = (self.training, torch.is_grad_enabled(), torch.get_num_threads())
        self.calls.append((tuple(x.shape), *state))
        time.sleep(0.05 if slow else 0.005)
        return x


@pytest.fixture
def sleeps() -> Sleeps:
    Sleeps.calls.clear()
    return Sleeps()


def test_median_in_milliseconds(sleeps: Sleeps) -> None:
    latency_ms = median_pass_ms(sleeps, torch.rand(1, 1, 8, 8), repeats=9, warmup=0)
    assert 5.0 <= latency_ms < 40.0


def test_runs_as_asked_and_restores(sleeps: Sleeps) -> None:
    threads = torch.get_num_threads()
    sleeps.train()
    median_pass_ms(sleeps, torch.rand(2, 3, 8, 4), repeats=2, warmup=1, num_threads=1)
    assert sleeps.calls == [((2, 3, 8, 4), False, False, 1)] * 3
    assert sleeps.training
    assert torch.get_num_threads() == threads


def test_restores_after_a_failure() -> None:
    threads = torch.get_num_threads()
    network = nn.Conv2d(3, 1, 1).train()
    with pytest.raises(RuntimeError):
        median_pass_ms(network, torch.rand(1, 5, 8, 8), num_threads=threads + 1)
    assert network.training
    assert torch.get_num_threads() == threads


def test_batch_norm_statistics_do_not_move() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3)).train()
    median_pass_ms(network, torch.rand(1, 3, 8, 8), repeats=2, warmup=0)
    assert int(network[0].num_batches_tracked) == 0  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_waits_for_the_gpu() -> None:
    """Launching the kernels takes microseconds, computing them takes milliseconds."""
    network = nn.Sequential(*(nn.Conv2d(64, 64, 3, padding=1) for _ in range(20)))
    images = torch.rand(8, 64, 256, 256, device="cuda")
    latency_ms = median_pass_ms(network, images, repeats=10, device="cuda")
    macs = 20 * 8 * 256 * 256 * 64 * 64 * 9
    assert latency_ms > macs * 2 / 2e15 * 1e3  # no GPU does 2 PFLOP/s in float32
    assert next(network.parameters()).device.type == "cpu"
