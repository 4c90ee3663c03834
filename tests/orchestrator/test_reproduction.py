"""The commands are words that the command line itself reads."""

from __future__ import annotations

import json
import shlex

import pytest

from orchestrator.config import SweepConfig
from orchestrator.loading import load_sweep
from orchestrator.records import TrialRecord
from orchestrator.reproduction import caveats, search_command, sweep_command


def config(**changes):
    return SweepConfig.model_validate(
        {
            "name": "tiny",
            "data": {"name": "digits"},
            "supernet": {"name": "repvgg_tiny"},
            "budget": {"limits": [0.5, 0.25]},
            "strengths": [0.1, 10],
            "hyperparameters": {"learning_rate": {"low": 0.01, "high": 0.1}},
        }
        | changes
    )


def member(budget=0.5, strength=10.0, **fields):
    values = {"hyperparameters": {"learning_rate": 0.1 + 0.2}, "number": 3} | fields
    return TrialRecord(
        trial_id="t", sweep_id="s", status="FINISHED", budget=budget, strength=strength, **values
    )


def test_a_trial_has_its_number_and_its_exact_hyperparameters():
    command = search_command(config(), member(), {})
    assert command == (
        "pas search tiny.yaml --budget 0.5 --strength 10 --number 3 "
        "--hyperparameter learning_rate=0.30000000000000004"
    )
    assert "--strength 0.1 " in search_command(config(), member(strength=0.1), {})
    assert sweep_command(config()) == "pas sweep tiny.yaml"


def test_a_sweep_on_an_object_store_is_run_anew_away_from_it(tmp_path):
    stored = config(storage={"uri": "s3://bucket/pas"})
    words = shlex.split(sweep_command(stored))
    assert words == ["pas", "sweep", "tiny.yaml", "--set", "storage.uri=null"]
    told = " ".join(caveats(stored, []))
    assert "without --set storage.uri=null it would take them all from s3://bucket/pas." in told
    path = tmp_path / "tiny.yaml"
    path.write_text(json.dumps(stored.model_dump(mode="json")))
    assert load_sweep(path, words[-1:]).storage.uri is None
    assert "storage" not in " ".join(caveats(config(), []))


def test_limits_are_written_as_in_the_file():
    latency = config(budget={"resource": "latency_ms", "limits": ["0.8 ms"]})
    command = search_command(latency, member(budget=0.8), {})
    assert shlex.split(command)[3:5] == ["--budget", "0.8 ms"]
    assert command.endswith("--set latency.table=latency.json")
    assert any("latency.json" in sentence for sentence in caveats(latency, []))


def test_what_only_the_sweep_repeats_has_no_command():
    assert search_command(config(), member(control="uniform", strength=0.0), {}) is None
    annealed = config(budget={"limits": [0.25, 0.5], "schedule": "annealed"})
    assert search_command(annealed, member(budget=0.25), {}) is None
    assert "--budget 0.5 " in search_command(annealed, member(budget=0.5), {})
    mixed = config(budget={"limits": ["20 k", 0.5], "schedule": "annealed"})
    costs = {20_000.0: 20_000.0, 0.5: 226_112.0}
    assert search_command(mixed, member(budget=20_000), costs) is None
    assert "--budget 0.5 " in search_command(mixed, member(budget=0.5), costs)


@pytest.mark.parametrize(
    ("changes", "members", "words"),
    [
        ({}, [], "first ten trials"),
        ({"budget": {"limits": [0.5], "schedule": "annealed"}}, [], "annealed"),
        ({"resources": {"workers_per_trial": 2}}, [], "2 workers"),
        ({}, [member(micro_batches=2)], "ran out of memory"),
    ],
)
def test_what_may_differ_is_told_where_it_can(changes, members, words):
    assert words in " ".join(caveats(config(**changes), members))
    plain = " ".join(caveats(config(hyperparameters={}), [member(hyperparameters={})]))
    assert words not in plain
