from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pas_trainer import annealed_limits, attach_gates, budget_loss, project_onto_budget
from search_space import (
    Budget,
    GroupRules,
    WidthRules,
    build_supernet,
    trace_channels,
    uniform_widths,
)


def test_the_loss_is_the_squared_distance_in_units_of_the_supernet():
    cost = torch.tensor(700.0, requires_grad=True)
    loss = budget_loss({"macs": cost}, {"macs": 500}, {"macs": 1000}, "macs")
    assert loss.item() == pytest.approx(0.04)
    loss.backward()
    assert cost.grad.item() == pytest.approx(2 * 0.2 / 1000)


@pytest.mark.parametrize(
    ("macs", "num_params", "loss", "macs_grad", "num_params_grad"),
    [
        (700.0, 30.0, 0.04 + 0.01, 2 * 0.2 / 1000, 2 * 0.1 / 100),
        (300.0, 30.0, 0.04 + 0.01, -2 * 0.2 / 1000, 2 * 0.1 / 100),
        (700.0, 20.0, 0.04, 2 * 0.2 / 1000, 0.0),
        (300.0, 10.0, 0.04, -2 * 0.2 / 1000, 0.0),  # only the main resource grows back
    ],
)
def test_further_resources_count_only_above_their_limit(
    macs, num_params, loss, macs_grad, num_params_grad
):
    costs = {
        "num_params": torch.tensor(num_params, requires_grad=True),
        "macs": torch.tensor(macs, requires_grad=True),
    }
    limits, full = {"macs": 500, "num_params": 20}, {"macs": 1000, "num_params": 100}
    found = budget_loss(costs, limits, full, "macs")
    assert found.item() == pytest.approx(loss)
    found.backward()
    assert costs["macs"].grad.item() == pytest.approx(macs_grad)
    assert costs["num_params"].grad.item() == pytest.approx(num_params_grad)


@pytest.mark.parametrize(
    ("progress", "anneal", "macs", "num_params"),
    [
        (0.0, 0.5, 1000, 80),
        (0.25, 0.5, 600, 60),
        (0.5, 0.5, 200, 40),
        (1.0, 0.5, 200, 40),
        (0.0, 0.0, 200, 40),
    ],
)
def test_the_limits_come_down_in_a_straight_line(progress, anneal, macs, num_params):
    limits, full = {"macs": 200, "num_params": 40}, {"macs": 1000, "num_params": 80}
    now = annealed_limits(torch.tensor(progress).double(), limits, full, anneal)
    assert now == {"macs": macs, "num_params": num_params}


@pytest.fixture(scope="module")
def supernet():
    torch.manual_seed(0)
    model = build_supernet("repvgg_tiny", 10, 1)
    return model, trace_channels(model, torch.empty(1, 1, 8, 8))


@settings(max_examples=40, deadline=None)
@given(
    limit=st.floats(0.15, 1.0),
    seed=st.integers(0, 1000),
    spread=st.sampled_from([0.0, 0.3, 3.0, 1e4]),
    shift=st.floats(-5, 5),
    divisor=st.sampled_from([1, 2, 3]),
    resource=st.sampled_from(["macs", "num_params"]),
    also_limit=st.sampled_from([None, 0.6]),
    toward_uniform=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_any_scores_land_on_the_budget(
    supernet, limit, seed, spread, shift, divisor, resource, also_limit, toward_uniform
):
    model, graph = supernet
    rules = WidthRules(divisor=divisor, groups={"stages.0.0": GroupRules(floor=0.5)})
    gated = attach_gates(model, graph, rules)
    generator = torch.Generator().manual_seed(seed)
    for gate in gated.gates.values():
        noise = torch.randn(gate.scores.shape, generator=generator)
        gate.scores.data.copy_(shift + spread * noise)
    before = {n: g.scores.detach().clone() for n, g in gated.gates.items()}
    other = "num_params" if resource == "macs" else "macs"
    also = {other: also_limit} if also_limit else {}
    budget = Budget(resource=resource, limit=limit, also=also)
    widths = project_onto_budget(gated, budget, rules, toward_uniform)
    if toward_uniform == 1:
        assert widths == uniform_widths(graph, budget, rules)
    uses = [graph.count(r, widths) / limit for r, limit in budget.limits(graph).items()]
    assert 0.97 <= max(uses) <= 1
    for group in graph.groups:
        gate = gated.gates[group.name]
        mask = gate.open_mask()
        assert int(mask.sum()) == widths[group.name] >= group.size * rules.floor_of(group)
        assert widths[group.name] % divisor == 0 or widths[group.name] == group.size
        if (~mask).any():  # within a group the best scores stay
            scores = before[group.name]
            assert scores[mask].min() >= scores[~mask].max()


def test_blocks_close_by_the_mean_of_their_scores(supernet):
    model, graph = supernet
    rules = WidthRules(divisor=3)
    gated = attach_gates(model, graph, rules)
    first, second = graph.groups[:2]
    with torch.no_grad():
        for gate in gated.gates.values():
            gate.scores.fill_(0.9)
        # The last block of 16 channels holds one of them, the others three each.
        gated.gates[first.name].scores[5] = 0.3
        gated.gates[second.name].scores[:4] = torch.tensor([0.4, 0.0, 0.4, 0.0])
    full = graph.full_widths()
    assert (first.size, second.size) == (16, 32)  # 32 ends with a block of two: both zeros
    for expected in (
        {**full, second.name: 30},
        {**full, second.name: 30, first.name: 15},
        {**full, second.name: 27, first.name: 15},
    ):
        budget = Budget(limit=graph.count_macs(expected))
        assert project_onto_budget(gated, budget, rules) == expected
