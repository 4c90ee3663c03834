from __future__ import annotations

import socket

import pytest
import torch

from orchestrator.node_resources import check_gpu, worker_threads
from pas_trainer import DataError


def test_threads_follow_the_cpus_of_a_trial():
    assert worker_threads(0.5) == 1
    assert worker_threads(1.0) == 1


@pytest.mark.parametrize(
    ("device", "booked", "told"),
    [("auto", 0.5, "a trial books 0.5 GPUs"), ("cuda", 0.0, "device is cuda")],
)
def test_a_gpu_that_torch_does_not_find_is_told(monkeypatch, device, booked, told):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        DataError, match=f"{told}, but torch finds no GPU on {socket.gethostname()}"
    ):
        check_gpu(device, booked)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_gpu(device, booked)


@pytest.mark.parametrize(("device", "booked"), [("auto", 0.0), ("cpu", 0.0), ("cpu", 1.0)])
def test_a_cpu_is_enough_where_no_gpu_is_wanted(monkeypatch, device, booked):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_gpu(device, booked)
