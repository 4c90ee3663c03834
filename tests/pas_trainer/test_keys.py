"""Hashes that name what has been computed; what earlier versions computed must be found."""

from __future__ import annotations

import dataclasses

from pas_trainer import (
    DataConfig,
    OptimizerConfig,
    SupernetTraining,
    TaskConfig,
    TrialConfig,
    content_key,
    plain_values,
    unset_additions,
)
from pas_trainer.keys import state_key
from search_space import Budget, GroupRules, SupernetConfig, WidthRules

DATA = DataConfig(name="digits", validation=0.25)
SUPERNET = SupernetConfig(name="repvgg_tiny", options={"width": 0.5})
TRIAL = TrialConfig(
    data=DATA, supernet=SUPERNET, budget=Budget(resource="macs", limit=0.5), strength=10.0
)


def test_hashes_are_those_of_the_version_without_tasks():
    """The figures were printed by that version."""
    assert content_key(DATA) == "26963bb44ca8"
    assert state_key(TRIAL) == "26003f7fd326"
    assert content_key(SupernetTraining(data=DATA, supernet=SUPERNET)) == "be8b4c79ea0d"


def test_what_was_added_counts_once_it_is_set():
    assert "task" in unset_additions(TRIAL)
    other = dataclasses.replace(TRIAL, task=TaskConfig(name="image_translation"))
    assert plain_values(other)["task"] == {"name": "image_translation", "options": {}}
    adamw = dataclasses.replace(TRIAL, optimizer=OptimizerConfig(name="adamw"))
    assert len({state_key(trial) for trial in (TRIAL, other, adamw)}) == 3


def test_the_order_of_overlapping_patterns_counts():
    """Later ones win, so the other order is another search space."""
    wide, narrow = GroupRules(floor=0.5), GroupRules(floor=0.1)
    orders = [{"a*": wide, "ab": narrow}, {"ab": narrow, "a*": wide}]
    first, second = (WidthRules(groups=groups) for groups in orders)
    assert first.groups == second.groups
    assert content_key(first) != content_key(second)
    assert content_key(first) == content_key(WidthRules(groups=dict(orders[0])))
    plain = {name: {"floor": rules.floor, "divisor": None} for name, rules in orders[0].items()}
    assert plain_values(first)["groups"] == plain  # as it always was
