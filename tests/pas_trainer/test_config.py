from __future__ import annotations

import dataclasses

import pytest

from pas_trainer import AnnealedConfig, ControlConfig, DataConfig, TrialConfig, content_key
from pas_trainer.keys import state_key
from search_space import Budget, SupernetConfig

TRIAL = TrialConfig(
    data=DataConfig(name="digits"),
    supernet=SupernetConfig(name="repvgg_tiny"),
    budget=Budget(limit=0.5),
    strength=1.0,
)


def configs(trial):
    return [
        trial,
        ControlConfig(kind="uniform", trial=trial),
        AnnealedConfig(trial=trial, further=(Budget(limit=0.25),)),
    ]


@pytest.mark.parametrize("kind", range(3))
def test_states_are_known_by_what_the_latency_table_holds_not_by_where_it_lies(tmp_path, kind):
    def key(name: str, content: str) -> str:
        (tmp_path / name).write_text(content)
        table = str(tmp_path / name)
        return state_key(configs(dataclasses.replace(TRIAL, latency_table=table))[kind])

    without = state_key(configs(TRIAL)[kind])
    assert without == content_key(configs(TRIAL)[kind])
    assert key("here.json", "{}") == key("there.json", "{}") != without
    assert key("here.json", "{1}") != key("there.json", "{}")
