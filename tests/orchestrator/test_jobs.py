"""What is known of trials whose studies were lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cells import Cell
from orchestrator.home import Home, write_json
from orchestrator.jobs import SweepJobs
from orchestrator.loading import load_sweep
from orchestrator.preflight import make_plan
from orchestrator.studies import Suggestion
from orchestrator.worker import failed, started

DIGITS = Path(__file__).parents[2] / "examples" / "digits.yaml"


@pytest.mark.parametrize("schedule", ["separate", "annealed"])
def test_what_trials_left_tells_what_they_were(tmp_path, schedule):
    sets = [f"budget={{limits: [0.25, 0.5], schedule: {schedule}}}", "strengths=[1, 10]"]
    config = load_sweep(DIGITS, [*sets, "controls=[supernet]"])
    plan, home = make_plan(config), Home(tmp_path)
    jobs = SweepJobs(plan, home)
    handed_out = [
        Suggestion(Cell(0.5, strength), number, {"learning_rate": 0.01 * strength + number})
        for strength in (1.0, 10.0)
        for number in (0, 1)
    ]
    made = [jobs.trial(suggestion) for suggestion in handed_out]
    write_json(made[1].folder / "trial.json", started(made[1]).to_json())
    write_json(made[2].folder / "trial.json", started(made[2]).to_json())
    write_json(made[2].steps[0].folder / "result.json", failed(made[2], "").to_json())
    write_json(made[3].folder / "result.json", failed(made[3], "").to_json())
    control = home.trial(config.sweep_id, "control-supernet")
    write_json(control / "result.json", {**failed(made[0], "").to_json(), "control": "supernet"})
    left = list(jobs.left_by_trials({made[3].trial_id}))
    assert {(s.cell, s.number) for s in left} == {(Cell(0.5, 1.0), 1), (Cell(0.5, 10.0), 0)}
    assert all(suggestion in handed_out for suggestion in left)
