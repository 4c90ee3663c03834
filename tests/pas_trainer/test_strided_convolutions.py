from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pas_trainer.strided_convolutions import subsampled_reads

LAYERS = [
    {"stride": 2},
    {"stride": (1, 3), "bias": False},
    {"stride": (2, 1), "padding": "valid"},
    {"stride": 2, "groups": 3},
    {"stride": 2, "padding": 1},
    {"stride": 2, "kernel_size": 3},
    {"stride": 1},
]


@pytest.mark.parametrize("options", LAYERS, ids=str)
@pytest.mark.parametrize("size", [(7, 8), (3, 5)])
def test_layers_stay_what_they_are(options, size):
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 9, **{"kernel_size": 1, **options}).double()
    x = torch.randn(4, 6, *size, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    expected = layer(x)
    weights = torch.randn_like(expected)
    gradients = torch.autograd.grad((expected * weights).sum(), inputs)
    with subsampled_reads():
        found = layer(x)
    assert_close(found, expected)
    assert_close(torch.autograd.grad((found * weights).sum(), inputs), gradients)


TRAINS = """
import torch
from torch import nn
from pas_trainer.strided_convolutions import subsampled_reads

torch.set_num_threads(1)
torch.manual_seed(0)
for channels in range(1, 10):
    layer = nn.Conv2d(channels, 12, 1, 2, bias=False).to(memory_format=torch.channels_last)
    for _ in range(50):
        x = torch.randn(64, channels, 16, 16).contiguous(memory_format=torch.channels_last)
        with subsampled_reads():
            layer(x).square().sum().backward()
"""


def test_training_narrow_layers_damages_no_memory():
    """Without the other way this process is killed where oneDNN has the fault."""
    done = subprocess.run([sys.executable, "-c", TRAINS], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
