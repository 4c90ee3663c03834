"""A supernet's channel graph, traced once per process and no oftener, nor more rarely."""

from __future__ import annotations

import dataclasses

import pytest
from digits_trial import DATA, TRIAL

from pas_trainer import DataError
from pas_trainer.data import load_data
from pas_trainer.supernet import (
    SUPERNET_RESULT,
    graph_of_trial,
    new_supernet,
    read_supernet_result,
    trace_supernet,
)
from pas_trainer.tasks import Classification
from search_space import SupernetConfig


def graph_at(width: float, pinned: tuple[str, ...] = ()):
    where = SupernetConfig(name="repvgg_tiny", options={"width": width}, pinned=pinned)
    task, data = Classification(), load_data(DATA)
    network = new_supernet(where, task, data)
    config = dataclasses.replace(TRIAL, supernet=where)
    return graph_of_trial(config, network, task, data), trace_supernet(
        network, task, data, pinned=pinned
    )


def test_trials_of_one_supernet_share_its_graph():
    first, _ = graph_at(0.5)
    again, _ = graph_at(0.5)
    assert again is first


@pytest.mark.parametrize("other", [{"width": 1.0}, {"width": 0.5, "pinned": ("stages.1.0",)}])
def test_another_supernet_is_traced_anew(other):
    first, _ = graph_at(0.5)
    found, traced = graph_at(**other)
    assert found is not first
    assert [g.name for g in found.groups] == [g.name for g in traced.groups]
    assert found.count_macs() == traced.count_macs()
    assert (found.count_macs(), len(found.groups)) != (first.count_macs(), len(first.groups))


@pytest.mark.parametrize("content", ["", "[1]", '{"macs": 1}', '{"left_at_random": []}'])
def test_damaged_measures_are_told_with_the_way_out(tmp_path, content):
    path = tmp_path / SUPERNET_RESULT
    path.write_text(content)
    with pytest.raises(DataError, match=rf"{path} is damaged.*trains the supernet anew"):
        read_supernet_result(tmp_path)
