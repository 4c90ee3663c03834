import itertools
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from search_space import trace_channels
from search_space.costs import Width
from search_space.latency import (
    LatencyCost,
    LatencyGrid,
    LatencyTable,
    graph_with_latency,
    monotone,
    spread_points,
)
from search_space.operators import Operator, network_signature

GROUPS = ("a", "b")
A, B = Width(0, (("a", 1),)), Width(3, (("b", 2),))


def _operator(signature, read, written):
    return Operator(signature, signature, read, written, (64, 64), (1, 1), None, ((), {}))


def _table(**grids):
    return LatencyTable("a device", grids, {})


def _product_grid(read, written):
    return LatencyGrid(read, written, tuple(tuple(0.5 * r * w for w in written) for r in read))


def test_sum_over_operators_by_hand():
    operators = [_operator("mix", A, B), _operator("mix", A, B), _operator("pass", Width(1), A)]
    table = _table(
        mix=_product_grid((1, 8, 32), (1, 64)), **{"pass": LatencyGrid((1,), (4, 8), ((1.0, 3.0),))}
    )
    cost = LatencyCost(operators, GROUPS, table, factor=2.0)
    widths = torch.tensor([6.0, 10.0], dtype=torch.float64)
    # a = 6 and 3 + 2 * 10 = 23 channels: 0.5 * 6 * 23 = 69, twice; pass at 6: 2.
    assert float(cost(widths)) == pytest.approx(2 * (2 * 69 + 2))
    assert cost(widths.requires_grad_()).item() == pytest.approx(2 * (2 * 69 + 2))


def test_leading_dimensions_are_kept():
    cost = LatencyCost(
        [_operator("mix", A, B)], GROUPS, _table(mix=_product_grid((1, 64), (1, 99)))
    )
    widths = torch.rand(4, 3, 2, dtype=torch.float64) * 30 + 1
    one_by_one = [[float(cost(widths[i, j])) for j in range(3)] for i in range(4)]
    assert torch.allclose(cost(widths), torch.tensor(one_by_one, dtype=torch.float64))


def test_gradient_of_a_bilinear_time_is_exact():
    cost = LatencyCost(
        [_operator("mix", A, B)], GROUPS, _table(mix=_product_grid((1, 8, 9, 64), (1, 16, 17, 99)))
    )
    widths = torch.tensor([[6.0, 10.0], [64.0, 48.0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(cost(widths).sum(), widths)
    a, b = widths.detach().T
    assert torch.allclose(gradient, torch.stack([0.5 * (3 + 2 * b), 0.5 * a * 2], dim=-1))


def test_stairs_have_the_slope_of_the_whole_staircase():
    grid = LatencyGrid((1,), (16, 17, 32, 33, 48), ((1.0, 2.0, 2.0, 3.0, 3.0),))
    cost = LatencyCost([_operator("stairs", Width(1), A)], GROUPS, _table(stairs=grid))
    widths = torch.tensor([24.0, 1.0], dtype=torch.float64, requires_grad=True)
    value = cost(widths)
    assert value.item() == pytest.approx(2.0)
    (gradient,) = torch.autograd.grad(value, widths)
    assert gradient.tolist() == pytest.approx([1 / 16, 0.0])  # from 16 to 32: 1 ms


@given(st.lists(st.integers(1, 500), min_size=1, max_size=12, unique=True).map(sorted))
def test_spread_points_keep_the_ends_and_distances(points):
    kept = [points[k] for k in spread_points(points)]
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert all(b >= 1.25 * a for a, b in itertools.pairwise(kept[:-1]))


TIMES = st.lists(st.lists(st.floats(0, 9), min_size=3, max_size=3), min_size=1, max_size=4)


@given(TIMES)
def test_monotone_rises_within_the_range_of_the_times(times):
    ms = torch.tensor(times, dtype=torch.float64)
    rising = monotone(ms)
    assert bool((rising.diff(dim=0) >= 0).all())
    assert bool((rising.diff(dim=1) >= 0).all())
    assert float(rising.min()) >= float(ms.min())
    assert float(rising.max()) <= float(ms.max())
    assert torch.equal(monotone(rising), rising)


@given(TIMES, st.tuples(st.floats(0, 70), st.floats(0, 70)))
def test_never_negative(times, widths):
    grid = LatencyGrid(tuple(range(2, 2 + len(times))), (1, 5, 60), tuple(map(tuple, times)))
    cost = LatencyCost([_operator("any", A, B)], GROUPS, _table(any=grid))
    assert float(cost(torch.tensor(widths, dtype=torch.float64))) >= 0


def test_missing_operator_is_named():
    with pytest.raises(ValueError, match=r"operator 'mix' .* missing .* a device; measure it"):
        LatencyCost([_operator("mix", A, B)], GROUPS, _table())


def test_table_survives_json():
    table = LatencyTable("a device", {"mix": _product_grid((1, 8), (1, 3, 64))}, {"net": 1.25})
    assert LatencyTable.from_json(table.to_json()) == table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("grids"), "'grids' is missing"),
        (lambda d: d["grids"]["mix"].update(read=[8, 1]), "read is .8, 1.; it must ascend"),
        (lambda d: d["grids"]["mix"].update(ms=[[1.0]]), "must have 2 rows of 2 times"),
        (lambda d: d["grids"]["mix"].update(ms=[[1, 1], [1, -1]]), "negative or not finite"),
        (lambda d: d["grids"]["mix"].update(ms="x"), "no latency table"),
        (lambda d: d.update(factors={"net": 0}), "a factor is not positive"),
    ],
)
def test_wrong_document_is_one_sentence(change, message):
    document = json.loads(
        LatencyTable("d", {"mix": _product_grid((1, 8), (1, 3))}, {"net": 1.0}).to_json()
    )
    change(document)
    with pytest.raises(ValueError, match=message):
        LatencyTable.from_json(json.dumps(document))


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"grids": 3}'])
def test_no_table_at_all(text):
    with pytest.raises(ValueError, match="this is no latency table"):
        LatencyTable.from_json(text)


def test_graph_gets_latency_and_stays_untouched():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1))
    graph = trace_channels(model, torch.empty(1, 3, 8, 8))
    first, second = graph.operators
    grids = {
        first.signature: LatencyGrid((1,), (1, 8), ((1.0, 8.0),)),
        second.signature: LatencyGrid((1, 8), (1,), ((2.0,), (9.0,))),
    }
    with pytest.raises(ValueError, match="not its time as a whole; pass the network"):
        graph_with_latency(graph, LatencyTable("d", grids, {}))
    table = LatencyTable("d", grids, {network_signature(graph.operators): 3.0})
    other = graph_with_latency(graph, table)
    assert other.count("latency_ms", {"0": 4}) == pytest.approx(3 * (4 + 5))
    assert other.count("latency_ms") == pytest.approx(3 * (8 + 9))
    with pytest.raises(ValueError, match="needs a measured table"):
        graph.count("latency_ms")
