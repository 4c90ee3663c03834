"""Trials that break in ways of their own, beside others that do not."""

from __future__ import annotations

import pytest
from safetensors.torch import save_file

from orchestrator import ray_trials
from search_space import build_supernet

pytestmark = pytest.mark.slow

DEADLY = """
import os
from torch import nn

class Deadly(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.head = nn.Linear(8, num_classes)
        self.register_forward_hook(die_in_training)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))

def die_in_training(module, _inputs, output):
    if module.training and len(output) > 1:
        os._exit(1)

def deadly(num_classes, in_channels):
    return Deadly(num_classes, in_channels)
"""


def test_a_trial_that_always_kills_its_worker_fails_alone(pas, monkeypatch):
    (pas.file.parent / "deadly.py").write_text(DEADLY)
    weights = pas.file.parent / "weights.safetensors"
    sets = [
        *("--set", "supernet={name: 'import:deadly:deadly', weights: weights.safetensors}"),
        *("--set", "pretrain.epochs=0", "--set", "trials_per_cell=1"),
        *("--set", "budget.limits=[0.5]"),
    ]
    monkeypatch.syspath_prepend(pas.file.parent)
    save_file(build_supernet("import:deadly:deadly", 10, 1).state_dict(), weights)
    monkeypatch.setattr(ray_trials, "MAX_WORKER_DEATHS", 1)
    done = pas.here("sweep", str(pas.file), *sets, "--json")
    assert done.returncode == 1, done.stderr
    assert "1 of 1 trials failed" in done.stderr
    document = pas.json("status", "tiny")
    (trial,) = document["trials"]
    assert trial["status"] == "FAILED"
    assert trial["error"] == "its workers died 2 times within one epoch"
    assert trial["cpu_seconds"] is None
    assert document["usage"]["hours"]["lost"] > 0
