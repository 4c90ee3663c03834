"""What a sweep may become: more cells and trials, never other settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.config import SweepConfig
from orchestrator.errors import UserError
from orchestrator.growth import (
    check_same_supernet,
    check_unchanged,
    differences,
    extended,
    with_recorded_cells,
)
from orchestrator.home import Home, write_json
from orchestrator.loading import load_sweep

DIGITS = Path(__file__).parents[2] / "examples" / "digits.yaml"


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path)


def digits(*overrides: str) -> SweepConfig:
    return load_sweep(DIGITS, ["budget.limits=[0.5]", "strengths=[10]", *overrides])


def record(home: Home, config: SweepConfig) -> None:
    document = {"config": config.model_dump(mode="json"), "tracking_uri": "sqlite:///x"}
    write_json(home.sweep(config.sweep_id) / "sweep.json", document)


def test_cells_that_a_sweep_has_stay_in_it(home):
    record(home, digits("budget.limits=[0.5, 300 k]", "strengths=[10, 1]"))
    config = with_recorded_cells(digits("budget.limits=[300000, 0.25]", "strengths=[3]"), home)
    assert config.budget.limits == [0.5, "300 k", 0.25]
    assert config.strengths == [10, 1, 3]
    assert config.trials_per_cell == digits().trials_per_cell
    record(home, digits("trials_per_cell=9"))
    assert with_recorded_cells(digits("trials_per_cell=2"), home).trials_per_cell == 9


def test_other_images_under_the_same_path_are_refused(home):
    config = digits()
    check_same_supernet(config, "a1", home)  # it has not been started
    record(home, config)
    check_same_supernet(config, "a1", home)  # by a version that did not record it
    path = home.record_of(config.sweep_id)
    write_json(path, json.loads(path.read_text()) | {"supernet_key": "a1"})
    check_same_supernet(config, "a1", home)
    with pytest.raises(UserError, match=r"trials of supernet a1.*data\.root.*gives b2"):
        check_same_supernet(config, "b2", home)


def test_a_share_and_an_absolute_limit_cannot_name_the_same_cell(home):
    latency = "budget={resource: latency_ms, limits: [0.5, 0.8]}"
    record(home, digits(latency))
    with pytest.raises(UserError, match=r"'0\.8 ms' is absolute"):
        with_recorded_cells(digits(latency.replace("0.8", "0.8 ms")), home)


def test_a_sweep_is_extended_by_name_or_id(home):
    record(home, digits())
    by_name = extended(home, "digits", trials=5, limits=[0.25], strengths=[1.0])
    assert (by_name.trials_per_cell, by_name.budget.limits) == (5, [0.5, 0.25])
    assert by_name.strengths == [10, 1]
    assert by_name.sweep_id == digits().sweep_id
    assert extended(home, by_name.sweep_id, trials=None, limits=[], strengths=[]) == digits()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"sweep": "other"}, "no sweep 'other'"),
        ({"trials": 1}, "each cell of digits-"),
        ({"limits": [0.0]}, "limits"),
        ({"strengths": [-1.0]}, "strengths"),
    ],
)
def test_what_cannot_be_added_is_told(home, arguments, told):
    record(home, digits())
    given = {"sweep": "digits", "trials": None, "limits": [], "strengths": []} | arguments
    with pytest.raises(UserError, match=told):
        extended(home, given.pop("sweep"), **given)


def test_annealed_sweeps_get_no_further_cells(home):
    record(home, digits("budget.schedule=annealed", "budget.limits=[0.5, 0.25]"))
    with pytest.raises(UserError, match="only strengths and trials"):
        extended(home, "digits", trials=None, limits=[0.1], strengths=[])


def test_other_settings_under_the_same_name_are_refused_with_the_difference(home):
    check_unchanged(digits(), home)  # nothing is here yet
    record(home, digits())
    check_unchanged(digits("budget.limits=[0.25]", "resources.cpus_per_trial=2"), home)
    changed = digits("finetune.epochs=21", "data.validation=0.2")
    with pytest.raises(UserError) as caught:
        check_unchanged(changed, home)
    assert "data.validation: 0.25 -> 0.2; finetune.epochs: 20 -> 21." in str(caught.value)
    record(home, changed)
    check_unchanged(digits(), home)  # both are here, each goes on by its own id
    check_unchanged(changed, home)


def test_the_same_settings_under_an_id_of_an_earlier_version_are_no_change(home):
    document = {"config": digits().model_dump(mode="json"), "tracking_uri": "sqlite:///x"}
    write_json(home.sweep("digits-00000000") / "sweep.json", document)
    check_unchanged(digits(), home)


def test_differences_name_settings_that_are_new():
    annealed = digits("budget.schedule=annealed")
    assert "budget.limits: not set -> [0.5]" in differences(digits(), annealed)


def test_a_sweep_of_another_version_is_told_with_the_way_out(home):
    config = digits().model_dump(mode="json")
    config["search"]["of_another_version"] = 1
    write_json(home.sweep("digits-0") / "sweep.json", {"config": config, "tracking_uri": "x"})
    with pytest.raises(UserError, match=r"search\.of_another_version.*another version.*--new"):
        check_unchanged(digits(), home)
    assert with_recorded_cells(digits(), home) == digits()  # its id is another
