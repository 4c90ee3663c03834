"""What a trial may use of the node that it runs on."""

from __future__ import annotations

import os
import socket

import torch

from pas_trainer import DataError


def check_gpu(device: str, booked_gpus: float) -> None:
    """Check that torch finds the GPU that is to be trained on.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        booked_gpus: what Ray has set aside; with ``auto``, training on a CPU beside an idle GPU
            would be slow and not noticed.

    Raises:
        DataError: it finds none on this node.
    """
    if device == "cpu" or (device == "auto" and not booked_gpus) or torch.cuda.is_available():
        return
    why = "device is cuda" if device == "cuda" else f"a trial books {booked_gpus:g} GPUs"
    raise DataError(
        f"{why}, but torch finds no GPU on {socket.gethostname()}; install torch for CUDA there, "
        "or set device to cpu"
    )


def worker_threads(cpus_per_trial: float) -> int:
    """Return the torch threads of a trial that owns so many CPUs."""
    return max(1, min(int(cpus_per_trial), os.cpu_count() or 1))
