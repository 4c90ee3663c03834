"""Budgets and runs in words."""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.records import TrialRecord
from orchestrator.tracking_names import budget_text, trial_name

TRIAL = TrialRecord(
    trial_id="b0.25-s10-3",
    sweep_id="digits-1a2b3c",
    status="RUNNING",
    budget=0.25,
    strength=10.0,
    number=3,
)


@pytest.mark.parametrize(
    ("budget", "resource", "limit", "text"),
    [
        (0.25, "macs", None, "0.25 x MACs"),
        (0.25, "macs", 3e6, "0.25 x MACs"),
        (250000.0, "num_params", 250000.0, "250 k parameters"),
        (11.81e9, "macs", None, "11.81 G MACs"),
        (1.5e6, "activation_bytes", 1.5e6, "1.5 MB activations"),
        (2.0 * 2**20, "activation_bytes", 2.0 * 2**20, "2 MiB activations"),
        (0.8, "latency_ms", 0.8, "0.8 ms"),
        (0.8, "latency_ms", 2.4, "0.8 x latency"),
    ],
)
def test_budgets(budget, resource, limit, text):
    assert budget_text(budget, resource, limit) == text


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "0.25 x MACs, strength 10 #3"),
        ({"status": "FINISHED", "score": 0.9312}, "0.25 x MACs, strength 10 #3: 93.1 %"),
        ({"status": "PRUNED", "score": 0.5}, "0.25 x MACs, strength 10 #3: stopped early"),
        ({"status": "FAILED"}, "0.25 x MACs, strength 10 #3: failed"),
        ({"control": "uniform"}, "control uniform, 0.25 x MACs"),
        (
            {"control": "supernet", "status": "FINISHED", "score": 1.0},
            "control supernet: 100.0 %",
        ),
    ],
)
def test_names(fields, name):
    assert trial_name(dataclasses.replace(TRIAL, **fields), "macs") == name
