"""A sweep in an MLflow store, written by the tracker as a driver does."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter

from orchestrator.records import TrialRecord
from orchestrator.tracking import SweepTracker
from orchestrator.tracking_reader import find_sweep, records_of
from orchestrator.tracking_server import open_client

SWEEP = "digits-1a2b3c"
WIDTHS = {"stage1.0": 5, "stage2.0": 17}


def tracker(uri, sweep_id=SWEEP, name="digits", **changes):
    options = {
        "uri": uri,
        "sweep_id": sweep_id,
        "name": name,
        "experiment": "digits",
        "params": {"resource": "macs", "seed": 0},
        "tags": {"pas.task": "classification"},
        "artifacts": {"sweep.yaml": "name: digits\n"},
    }
    return SweepTracker(**(options | changes)).start()


def running(number, budget=0.5, strength=10.0, learning_rate=0.1):
    return TrialRecord(
        trial_id=f"b{budget:g}-s{strength:g}-{number}",
        sweep_id=SWEEP,
        status="RUNNING",
        budget=budget,
        strength=strength,
        number=number,
        hyperparameters={"learning_rate": learning_rate / (number + 3)},
    )


def ended(record, status="FINISHED", **fields):
    results = {
        "macs": 11_810_000_001 + record.number,
        "macs_ratio": 0.4987654321,
        "num_params": 1234,
        "latency_ms": 0.1 + record.number,
        "search_seconds": 1.5,
        "finetune_seconds": 2.25,
        "cpu_seconds": 7.5,
        "gpu_seconds": 0.0,
        "price": 0.01,
        "score": 0.9 + 0.001 * record.number,
        "test_score": 0.88,
        "widths": WIDTHS,
    }
    if status == "FAILED":
        results = {"error": "out of memory"}
    return dataclasses.replace(record, status=status, **(results | fields))


def run_trial(sweep, record, epochs=3):
    sweep.trial_started(record)
    for epoch in range(epochs):
        sweep.log_epoch(record.trial_id, {"loss": 1.0 / (epoch + 1), "accuracy": 0.5}, epoch)
    done = ended(record)
    sweep.trial_finished(done, {"architecture.json": "{}"})
    return done


def load_records(uri, sweep):
    """The records of a sweep, by its id or name."""
    return records_of(uri, find_sweep(uri, sweep))


def run_ids(uri, sweep=SWEEP):
    """Trial id -> MLflow run."""
    return {record.trial_id: record.run_id for record in load_records(uri, sweep)}


def all_runs(uri):
    """Children as (tags, run), with the trial id, straight from MLflow."""
    client = open_client(uri)
    parent = find_sweep(uri, SWEEP)
    runs = client.search_runs([parent.experiment_id], max_results=5000)
    return client, [run for run in runs if run.data.tags.get("pas.kind") == "trial"]


def assert_clean(uri, trials):
    """One run per trial, no epoch twice, none RUNNING."""
    client, runs = all_runs(uri)
    assert sorted(run.data.tags["pas.trial_id"] for run in runs) == sorted(trials)
    for run in runs:
        assert run.info.status != "RUNNING"
        for key in run.data.metrics:
            history = client.get_metric_history(run.info.run_id, key)
            assert max(Counter(metric.step for metric in history).values()) == 1, key
    return client, {run.data.tags["pas.trial_id"]: run for run in runs}


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)
