"""Plans with limits on latency: where their table comes from, and what they make of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from orchestrator import latency_table
from orchestrator.errors import UserError
from orchestrator.home import Home
from orchestrator.latency_table import (
    keep_table,
    kept_table,
    latency_graph,
    plan_latency,
    write_table_file,
)
from orchestrator.loading import parse_sweep
from orchestrator.preflight import make_plan
from search_space import LatencyGrid, LatencyTable
from search_space.latency_target import LatencyTarget
from search_space.operators import network_signature

SWEEP = {
    "name": "tiny",
    "data": {"name": "digits"},
    "supernet": {"name": "repvgg_tiny"},
    "budget": {"resource": "latency_ms", "limits": [0.5, "0.008 ms"]},
    "strengths": [10],
    "latency": {"seconds": 0.2},
}
CONSOLE = Console(quiet=True)


def sweep(**changes):
    return parse_sweep({**SWEEP, **changes}, "test")


def product_table(graph, ms_per_product=1e-6, factor=1.5):
    """Times that are products of the channels read and written, so that sums are known."""
    grids = {}
    for operator in graph.operators:
        read, written = (tuple(sorted({1, channels})) for channels in operator.full)
        ms = tuple(tuple(ms_per_product * r * w for w in written) for r in read)
        grids[operator.signature] = LatencyGrid(read, written, ms)
    return LatencyTable("a test", grids, {network_signature(graph.operators): factor})


def sum_of_products(graph):
    return sum(operator.full[0] * operator.full[1] for operator in graph.operators)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.fixture
def folder(home):
    return home.sweep("tiny")


@pytest.fixture
def no_measuring(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("measured")

    monkeypatch.setattr(latency_table, "measure_latency_table", refuse)


def test_limits_follow_the_named_table(home, folder, tmp_path, no_measuring):
    plan = make_plan(sweep())
    assert plan.limits == {}
    file = tmp_path / "table.json"
    file.write_text(product_table(plan.graph).to_json())
    plan = make_plan(sweep(latency={"table": str(file)}))
    plan = plan_latency(plan, home, folder, CONSOLE)
    full = 1.5e-6 * sum_of_products(plan.graph)
    assert plan.graph.count("latency_ms") == pytest.approx(full)
    assert plan.limits == pytest.approx({0.5: full / 2, 0.008: 0.008})


def test_a_dry_run_measures_nothing(home, folder, no_measuring):
    plan = make_plan(sweep())
    assert plan_latency(plan, home, folder, CONSOLE, dry_run=True) is plan
    assert not home.root.exists()


def test_what_is_measured_is_kept_and_never_measured_again(home, folder, monkeypatch):
    plan, random_state = make_plan(sweep(budget=LOOSE)), torch.get_rng_state()
    plan = plan_latency(plan, home, folder, CONSOLE)
    assert torch.equal(torch.get_rng_state(), random_state)
    keep_table(plan, folder)

    def refuse(*_args, **_kwargs):
        raise AssertionError("measured")

    monkeypatch.setattr(latency_table, "measure_latency_table", refuse)
    again = plan_latency(make_plan(sweep(budget=LOOSE)), home, folder, CONSOLE)
    elsewhere = plan_latency(make_plan(sweep(budget=LOOSE)), home, home.sweep("x"), CONSOLE)
    full = plan.graph.count("latency_ms")
    assert full > 0
    assert again.graph.count("latency_ms") == full
    assert elsewhere.graph.count("latency_ms") == full  # from the cache


LOOSE = {"resource": "latency_ms", "limits": [0.9], "also": {"macs": 0.9}}


def test_the_kept_table_wins_over_the_file_and_is_not_replaced(home, folder, tmp_path):
    graph = make_plan(sweep()).graph
    file = tmp_path / "table.json"
    file.write_text(product_table(graph).to_json())
    config = sweep(latency={"table": str(file)})
    first = plan_latency(make_plan(config), home, folder, CONSOLE)
    keep_table(first, folder)
    file.write_text(product_table(graph, 1e-5).to_json())
    second = plan_latency(make_plan(config), home, folder, CONSOLE)
    keep_table(second, folder)
    assert second.limits == first.limits
    assert latency_graph(graph, folder).count("latency_ms") == first.graph.count("latency_ms")
    elsewhere = plan_latency(make_plan(config), home, home.sweep("x"), CONSOLE)
    assert elsewhere.limits[0.5] == pytest.approx(10 * first.limits[0.5])


def test_only_this_networks_times_are_kept(home, folder, tmp_path):
    plan = make_plan(sweep())
    table = product_table(plan.graph)
    other = {"other": LatencyGrid((1,), (1,), ((1.0,),))}
    more = LatencyTable(table.device, {**table.grids, **other}, {**table.factors, "other": 1.0})
    write_table_file(plan, more, tmp_path / "out" / "table.json")
    document = json.loads((tmp_path / "out" / "table.json").read_text())
    assert set(document["grids"]) == set(table.grids)
    assert set(document["factors"]) == set(table.factors)


def test_sweeps_without_latency_have_no_table(home, folder, no_measuring):
    plan = make_plan(sweep(budget={"limits": [0.5]}))
    assert plan_latency(plan, home, folder, CONSOLE) is plan
    keep_table(plan, folder)
    assert not kept_table(folder).exists()
    same = sweep(budget={"limits": [0.5]}, latency={"num_threads": 2})
    assert same.sweep_id == plan.config.sweep_id


def test_the_target_decides_the_sweep_and_how_long_it_is_measured_does_not():
    ids = {
        sweep(latency=latency).sweep_id
        for latency in ({}, {"seconds": 9}, {"batch_size": 8}, {"num_threads": 2})
    }
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("not json", "latency.table: latency table .* cannot be read: this is no latency table"),
        ('{"device": "x", "grids": {}, "factors": {}}', "latency.table: .* of another network"),
        (None, "latency.table: latency table .* cannot be read: No such file"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(home, folder, tmp_path, text, sentence):
    file = tmp_path / "table.json"
    if text is not None:
        file.write_text(text)
    plan = make_plan(sweep(latency={"table": str(file)}))
    with pytest.raises(UserError, match=sentence):
        plan_latency(plan, home, folder, CONSOLE)


def test_a_table_that_was_measured_otherwise_than_the_file_says_is_refused(home, folder, tmp_path):
    plan = make_plan(sweep())
    table = dataclasses.replace(product_table(plan.graph), device=LatencyTarget().key)
    file = tmp_path / "table.json"
    file.write_text(table.to_json())
    for said in ({}, {"batch_size": 1, "num_threads": 1, "dtype": "float32", "device": "cpu"}):
        plan_latency(make_plan(sweep(latency={"table": str(file), **said})), home, folder, CONSOLE)
    for said in (
        {"batch_size": 8},
        {"num_threads": 4},
        {"dtype": "float16"},
        {"device": "cuda"},
        {"channels_last": True},
    ):
        (name,) = said
        plan = make_plan(sweep(latency={"table": str(file), **said}))
        with pytest.raises(UserError, match=rf"latency\.{name} is .* was measured on .*batch 1,"):
            plan_latency(plan, home, folder, CONSOLE)


def test_a_limit_below_what_the_floors_allow_is_refused(home, folder, tmp_path):
    file = Path(tmp_path / "table.json")
    file.write_text(product_table(make_plan(sweep()).graph).to_json())
    budget = {"resource": "latency_ms", "limits": ["0.01 us"]}
    plan = make_plan(sweep(budget=budget, latency={"table": str(file)}))
    with pytest.raises(UserError, match=r"budget: limit 0.01 us of latency_ms .* below .* floor"):
        plan_latency(plan, home, folder, CONSOLE)
