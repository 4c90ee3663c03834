from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from orchestrator.cells import (
    Cell,
    Control,
    cells_of,
    control_config,
    controls_of,
    default_of,
    from_loose_to_tight,
    front_config,
    studied_cells,
    trial_config,
)
from orchestrator.loading import load_sweep
from search_space import TUNABLE, Budget

DIGITS = Path(__file__).parents[2] / "examples" / "digits.yaml"


def test_cells_are_all_pairs_budgets_outermost():
    config = load_sweep(DIGITS, ["budget.limits=[0.5, 0.25]", "strengths=[1, 10]"])
    assert cells_of(config) == [Cell(0.5, 1), Cell(0.5, 10), Cell(0.25, 1), Cell(0.25, 10)]


def test_names_are_short_and_distinct():
    cells = [Cell(0.5, 1.0), Cell(0.5, 10.0), Cell(1e9, 0.125), Cell(0.05, 1.0)]
    assert [c.name for c in cells] == ["b0.5-s1", "b0.5-s10", "b1e+09-s0.125", "b0.05-s1"]
    assert cells[0].trial_id(3) == "b0.5-s1-3"


def test_limits_with_units_keep_their_meaning():
    sets = ["budget={resource: latency_ms, limits: [0.5, 0.8 ms, 2000 us], also: {macs: 0.9}}"]
    config = load_sweep(DIGITS, [*sets, "strengths=[1]"])
    cells = cells_of(config)
    assert [c.name for c in cells] == ["b0.5-s1", "b0.8-s1", "b2-s1"]
    made = [trial_config(config, cell, 0, {}, Path("t.json")) for cell in cells]
    assert {trial.latency_table for trial in made} == {"t.json"}
    budgets = [trial.budget for trial in made]
    assert budgets == [
        Budget(resource="latency_ms", limit=limit, also={"macs": 0.9})
        for limit in (0.5, "0.8 ms", "2000 us")
    ]


def test_hyperparameters_replace_the_recipe_and_nothing_else():
    config = load_sweep(DIGITS)
    chosen = {"learning_rate": 0.123, "toward_uniform": 0.4}
    made = trial_config(config, Cell(0.5, 10.0), 1, chosen)
    assert made.optimizer.learning_rate == 0.123
    assert made.search == dataclasses.replace(config.search, toward_uniform=0.4)
    assert made.optimizer.momentum == config.optimizer.momentum
    assert made.budget.limit == 0.5
    assert made.strength == 10.0
    assert made.data == config.data


@pytest.mark.parametrize("name", TUNABLE)
def test_every_tunable_hyperparameter_has_a_default_and_reaches_the_trial(name):
    config = load_sweep(DIGITS)
    default = default_of(config, name)
    assert TUNABLE[name].contains(default)
    said = load_sweep(DIGITS, ["search.toward_uniform=0.5"])
    plain = trial_config(said, Cell(0.5, 10.0), 1, {})
    assert trial_config(said, Cell(0.5, 10.0), 1, {name: default}) == plain
    assert trial_config(config, Cell(0.5, 10.0), 1, {name: TUNABLE[name].high}) != plain


def test_uniform_widths_have_no_say_in_a_front_unless_told():
    for schedule, share in (("separate", 0.5), ("annealed", 0.0)):
        config = load_sweep(DIGITS, [f"budget.schedule={schedule}"])
        assert default_of(config, "toward_uniform") == share
    config = load_sweep(DIGITS, ["budget.schedule=annealed", "search.toward_uniform=0.25"])
    cells = [Cell(budget, 10.0) for budget in from_loose_to_tight(config, {})]
    front = front_config(config, cells, 0, {})
    assert {front.at(k).search.toward_uniform for k in range(len(cells))} == {0.25}


def test_each_trial_has_its_own_seed_always_the_same():
    config = load_sweep(DIGITS)
    seeds = [
        trial_config(config, cell, number, {}).seed
        for cell in cells_of(config)
        for number in (0, 1)
    ]
    assert len(set(seeds)) == len(seeds)
    assert trial_config(config, Cell(0.5, 10.0), 1, {}).seed in seeds
    other = load_sweep(DIGITS, ["seed=1"])
    assert trial_config(other, Cell(0.5, 10.0), 1, {}).seed not in seeds


def test_a_sweep_has_one_supernet_and_one_uniform_network_per_limit():
    config = load_sweep(DIGITS, ["budget.limits=[0.25, 0.5]", "controls=[supernet, uniform]"])
    controls = controls_of(config, {0.25: 100.0, 0.5: 200.0})
    assert controls == [
        Control("supernet", 0.5),
        Control("uniform", 0.25),
        Control("uniform", 0.5),
    ]
    ids = [control.trial_id for control in controls]
    assert ids == ["control-supernet", "control-uniform-b0.25", "control-uniform-b0.5"]
    assert controls_of(load_sweep(DIGITS), {}) == []


def test_the_loosest_limit_is_the_largest_in_the_resource_itself():
    sets = ["budget={limits: [0.5, 100 k]}", "controls=[supernet]"]
    config = load_sweep(DIGITS, sets)
    assert controls_of(config, {0.5: 200_000.0, 1e5: 100_000.0}) == [Control("supernet", 0.5)]
    assert controls_of(config, {0.5: 50_000.0, 1e5: 100_000.0}) == [Control("supernet", 1e5)]


def test_controls_follow_the_file_with_seeds_of_their_own():
    config = load_sweep(DIGITS, ["controls=[supernet, uniform]", "optimizer.learning_rate=0.07"])
    made = [control_config(config, control) for control in controls_of(config, {})]
    assert [m.kind for m in made] == ["supernet", *["uniform"] * 4]
    assert [m.trial.budget.limit for m in made] == [0.75, 0.75, 0.5, 0.25, 0.125]
    assert {m.trial.optimizer.learning_rate for m in made} == {0.07}
    trials = [trial_config(config, cell, 0, {}).seed for cell in cells_of(config)]
    assert len({m.trial.seed for m in made} | set(trials)) == len(made) + len(trials)


def test_an_unknown_hyperparameter_cannot_slip_in():
    with pytest.raises(TypeError):
        trial_config(load_sweep(DIGITS), Cell(0.5, 1.0), 0, {"lr": 0.1})


def test_annealed_budgets_start_at_the_loosest():
    config = load_sweep(
        DIGITS, ["budget={limits: [0.25, 60000, 0.4], schedule: annealed}", "strengths=[1, 10]"]
    )
    limits = {0.25: 28_000.0, 60_000.0: 60_000.0, 0.4: 45_000.0}
    assert from_loose_to_tight(config, limits) == [60_000, 0.4, 0.25]
    assert studied_cells(config, limits) == [Cell(60_000, 1), Cell(60_000, 10)]
    cells = [Cell(budget, 10.0) for budget in from_loose_to_tight(config, limits)]
    front = front_config(config, cells, 2, {"learning_rate": 0.2})
    assert front.trial == trial_config(config, cells[0], 2, {"learning_rate": 0.2})
    assert front.further == (Budget(limit=0.4), Budget(limit=0.25))
    search = dataclasses.replace(front.trial.search, toward_uniform=0.0)
    assert front.at(0) == dataclasses.replace(front.trial, search=search)
    assert front.at(2).budget == Budget(limit=0.25)
    assert front.at(2).search.epochs == -(-2 * config.search.epochs // 5)
    assert len({front.at(step).seed for step in range(3)}) == 3


def test_separate_budgets_are_all_studied():
    config = load_sweep(DIGITS, ["budget.limits=[0.5, 0.25]", "strengths=[1]"])
    assert studied_cells(config, {}) == cells_of(config)
