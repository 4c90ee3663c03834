from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pas_trainer import annealed_limit, attach_gates, budget_loss, project_onto_budget
from search_space import Budget, WidthRules, build_supernet, trace_channels


def test_the_loss_is_the_squared_distance_in_units_of_the_supernet():
    cost = torch.tensor(700.0, requires_grad=True)
    loss = budget_loss(cost, 500, 1000)
    assert loss.item() == pytest.approx(0.04)
    loss.backward()
    assert cost.grad.item() == pytest.approx(2 * 0.2 / 1000)


def test_the_limit_comes_down_in_a_straight_line():
    assert annealed_limit(0.0, 200, 1000, 0.5) == 1000
    assert annealed_limit(0.25, 200, 1000, 0.5) == 600
    assert annealed_limit(0.5, 200, 1000, 0.5) == 200
    assert annealed_limit(1.0, 200, 1000, 0.5) == 200
    assert annealed_limit(0.0, 200, 1000, 0.0) == 200


@pytest.fixture(scope="module")
def supernet():
    torch.manual_seed(0)
    model = build_supernet("repvgg_tiny", 10, 1)
    return model, trace_channels(model, torch.empty(1, 1, 8, 8))


@settings(max_examples=40, deadline=None)
@given(
    limit=st.floats(0.1, 1.0),
    seed=st.integers(0, 1000),
    spread=st.sampled_from([0.0, 0.3, 3.0, 1e4]),
    shift=st.floats(-5, 5),
    divisor=st.sampled_from([1, 2]),
    resource=st.sampled_from(["macs", "num_params"]),
)
def test_any_scores_land_on_the_budget(supernet, limit, seed, spread, shift, divisor, resource):
    model, graph = supernet
    rules = WidthRules(divisor=divisor)
    gated = attach_gates(model, graph, rules)
    generator = torch.Generator().manual_seed(seed)
    for gate in gated.gates.values():
        noise = torch.randn(gate.scores.shape, generator=generator)
        gate.scores.data.copy_(shift + spread * noise)
    before = {n: g.scores.detach().clone() for n, g in gated.gates.items()}
    budget = Budget(resource=resource, limit=limit)
    widths = project_onto_budget(gated, budget, rules)
    absolute = budget.absolute(graph)
    assert 0.97 * absolute <= graph.count(resource, widths) <= absolute
    for group in graph.groups:
        gate = gated.gates[group.name]
        mask = gate.open_mask()
        assert int(mask.sum()) == widths[group.name] >= max(1, rules.lowest(group.size))
        assert widths[group.name] % divisor == 0
        if (~mask).any():  # within a group the best scores stay
            scores = before[group.name]
            assert scores[mask].min() >= scores[~mask].max()
