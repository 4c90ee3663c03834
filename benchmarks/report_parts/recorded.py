"""A sweep of very many trials as MLflow has it, written into its database without running it."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import yaml

from orchestrator.config import SweepConfig
from orchestrator.home import Home
from orchestrator.records import TrialRecord
from orchestrator.report import SUPERNET_WIDTHS, SWEEP_FILE
from orchestrator.tracking import SweepTracker
from orchestrator.tracking_format import trial_params, trial_results, trial_tags
from orchestrator.tracking_names import trial_name

EPOCHS, LAYERS, MACS = 15, 30, 13_419_776
SUPERNET = {f"stages.{i // 6}.{i % 6}": 64 for i in range(LAYERS)}


def invented(config: SweepConfig, seed: int = 0) -> Iterator[TrialRecord]:
    """Give all trials of a sweep: 85 % finished, 10 % stopped early, 5 % failed."""
    draw = np.random.default_rng(seed)
    for budget in config.budget.numbers:
        for strength in config.strengths:
            for number in range(config.trials_per_cell):
                yield _trial(config, budget, strength, number, draw)


def _trial(
    config: SweepConfig, budget: float, strength: float, number: int, draw: np.random.Generator
) -> TrialRecord:
    status = str(draw.choice(["FINISHED", "PRUNED", "FAILED"], p=[0.85, 0.10, 0.05]))
    rate, luck = 10 ** draw.uniform(-1.7, -0.7), draw.normal(scale=0.01)
    ratio = budget * draw.uniform(0.97, 1.0)
    accuracy = float(0.5 + 0.3 * budget**0.3 - 0.1 * (np.log10(rate) + 1.2) ** 2 + luck)
    finished = {
        "macs": round(MACS * ratio),
        "macs_ratio": ratio,
        "num_params": round(3e6 * ratio),
        "activation_bytes": round(1e6 * ratio),
        "latency_ms": 2 * ratio,
        "score": accuracy,
        "test_score": accuracy - 0.01,
        "widths": {name: int(draw.integers(4, 65)) for name in SUPERNET},
    }
    spent = {"search_seconds": 10.0, "finetune_seconds": 20.0, "cpu_seconds": 30.0}
    return TrialRecord(
        trial_id=f"b{budget:g}-s{strength:g}-{number}",
        sweep_id=config.sweep_id,
        status=status,  # type: ignore[arg-type]
        budget=budget,
        strength=strength,
        number=number,
        hyperparameters={"learning_rate": rate, "weight_decay": 10 ** draw.uniform(-5, -3)},
        error="DivergenceError: the loss is not finite" if status == "FAILED" else None,
        **(finished if status == "FINISHED" else {}),  # type: ignore[arg-type]
        **spent,  # type: ignore[arg-type]
    )


def record(config: SweepConfig, home: Home, records: list[TrialRecord]) -> None:
    """Write a sweep's run as its driver does, and those of the trials straight as rows."""
    tracker = SweepTracker(
        uri=home.mlflow_uri,
        sweep_id=config.sweep_id,
        name=config.name,
        experiment=config.name,
        params={"resource": "macs", "supernet_macs": MACS},
        tags={},
        artifacts={
            SWEEP_FILE: yaml.safe_dump(config.model_dump(mode="json")),
            SUPERNET_WIDTHS: json.dumps(SUPERNET),
        },
    ).start()
    tracker.update_front(records, "macs", MACS)
    tracker.close("FINISHED", timeout_s=600)
    with closing(sqlite3.connect(home.root / "mlflow.db")) as store, store:
        _insert(store, tracker.run_id, records, home.root / "mlartifacts")


def _insert(
    store: sqlite3.Connection, sweep_run: str, records: list[TrialRecord], artifacts: Path
) -> None:
    query = "select experiment_id, start_time from runs where run_uuid = ?"
    experiment, now = store.execute(query, (sweep_run,)).fetchone()
    for trial in records:
        run_id, name = uuid.uuid4().hex, trial_name(trial, "macs")
        status = {"PRUNED": "FINISHED"}.get(trial.status, trial.status)
        place = f"{(artifacts / run_id).as_uri()}/artifacts"
        store.execute(
            "insert into runs (run_uuid, name, source_type, source_name, entry_point_name, user_id,"
            " status, start_time, end_time, source_version, lifecycle_stage, artifact_uri,"
            " experiment_id) values (?, ?, 'UNKNOWN', '', '', 'me', ?, ?, ?, '', 'active', ?, ?)",
            (run_id, name, status, now, now, place, experiment),
        )
        tags = trial_tags(trial, trial.sweep_id)
        tags |= {"mlflow.parentRunId": sweep_run, "mlflow.runName": name}
        rows = [(key, value, run_id) for key, value in tags.items()]
        store.executemany("insert into tags values (?, ?, ?)", rows)
        rows = [(key, value, run_id) for key, value in trial_params(trial, "macs").items()]
        store.executemany("insert into params values (?, ?, ?)", rows)
        epochs = [
            (key, value, now, run_id, step, 0)
            for step in range(1, EPOCHS + 1)
            for key, value in _epoch(trial, step).items()
        ]
        results = [(k, v, now, run_id, EPOCHS + 1, 0) for k, v in trial_results(trial).items()]
        columns = "(key, value, timestamp, run_uuid, step, is_nan) values (?, ?, ?, ?, ?, ?)"
        store.executemany(f"insert into metrics {columns}", epochs + results)
        latest = epochs[-4:] + results
        store.executemany(f"insert into latest_metrics {columns}", latest)


def _epoch(trial: TrialRecord, step: int) -> dict[str, float]:
    done = step / EPOCHS
    return {
        "loss": 2.0 - done,
        "epoch_accuracy": (trial.score or 0.5) * done**0.3,
        "epoch_macs_ratio": trial.budget + (1 - trial.budget) * max(0.0, 1 - 3 * done),
        "phase": float(step > 5),
    }
