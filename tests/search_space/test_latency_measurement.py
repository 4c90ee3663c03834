"""Measuring is tested with the clock replaced by torch's own counter of multiply-adds."""

import copy
import itertools
import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from search_space import RepVGGBlock, reparameterize, trace_channels
from search_space import latency_measurement as lm
from search_space.latency import LatencyTable, graph_with_latency
from search_space.latency_target import LatencyTarget, table_path

TARGET = LatencyTarget(batch_size=2)


def _count_macs(run, _target=None):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2


@pytest.fixture
def counted(monkeypatch):
    """MACs in the place of milliseconds, each counted once."""
    monkeypatch.setattr(lm, "_timed", _count_macs)
    monkeypatch.setattr(lm, "REPEATS", (1, 1))


def _chain(widths):
    a, b, c, d = widths
    return nn.Sequential(
        RepVGGBlock(3, a),
        RepVGGBlock(a, b, stride=2),
        nn.Conv2d(b, b, 3, groups=b),
        nn.BatchNorm2d(b),
        nn.ReLU(),
        nn.Conv2d(b, c, 3, bias=False),
        nn.Hardswish(),
        nn.ConvTranspose2d(c, d, 2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * d, 5),
    )


FULL = (8, 40, 24, 12)


def test_prediction_equals_the_networks_own_count_at_any_width(counted):
    graph = trace_channels(_chain(FULL), torch.empty(1, 3, 12, 12))
    table = lm.measure_latency_table(graph, _chain(FULL), TARGET)
    measured = graph_with_latency(graph, table)
    names = [group.name for group in graph.groups]
    images = torch.rand(2, 3, 12, 12)
    for widths in [FULL, (1, 1, 1, 1), (3, 17, 5, 12), (7, 33, 16, 2)]:
        network = reparameterize(_chain(widths))
        expected = _count_macs(lambda network=network: network(images))
        predicted = measured.count("latency_ms", dict(zip(names, widths, strict=True)))
        assert predicted == pytest.approx(expected)


class _Mixed(nn.Module):
    """Groups of channels, a concatenation, layer norms, a view with sizes in it."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(24, 32, 3, padding=1, groups=4)
        self.norm, self.mix = nn.LayerNorm(32), nn.Linear(32, 20)
        self.head = nn.Conv2d(20, 6, 1)

    def forward(self, x):
        y = self.grouped(torch.cat([self.a(x), self.b(x)], 1))
        y = self.mix(self.norm(y.permute(0, 2, 3, 1))).permute(0, 3, 1, 2).contiguous()
        return self.head(y).view(-1, 6, 36)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_prediction_equals_the_graphs_macs_on_a_mixed_network(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm, "_timed", _count_macs)
        patch.setattr(lm, "REPEATS", (1, 1))
        graph, measured = _mixed_graph()
    widths = {g.name: data.draw(st.integers(1, g.size)) for g in graph.groups}
    batch = TARGET.batch_size
    assert measured.count("latency_ms", widths) == pytest.approx(batch * graph.count_macs(widths))


_KNOWN = {}


def _mixed_graph():
    if not _KNOWN:
        graph = trace_channels(_Mixed(), torch.empty(1, 3, 6, 6))
        table = lm.measure_latency_table(graph, _Mixed(), TARGET)
        _KNOWN["it"] = graph, graph_with_latency(graph, table)
    return _KNOWN["it"]


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_real_times_fill_every_grid(two_threads):
    model = _chain(FULL).train()
    before = copy.deepcopy(model.state_dict())
    graph = trace_channels(model, torch.empty(1, 3, 12, 12))
    seen = []
    table = lm.measure_latency_table(
        graph, model, LatencyTarget(), seconds=0.5, progress=lambda *step: seen.append(step)
    )
    assert table.grids.keys() == {operator.signature for operator in graph.operators}
    for operator in graph.operators:
        grid = table.grids[operator.signature]
        assert (grid.read[-1], grid.written[-1]) == operator.full
        assert min(itertools.chain(*grid.ms)) > 0
    (factor,) = table.factors.values()
    assert factor > 0
    assert [done for done, _ in seen] == list(range(seen[0][1]))
    assert torch.get_num_threads() == 2
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert isinstance(model[0], RepVGGBlock)


def test_known_operators_are_not_measured_again(tmp_path, counted):
    def measure(*widths):
        asked = []
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, widths[0], 3))
        graph = trace_channels(model, torch.empty(1, 3, 8, 8))
        table = lm.measure_latency_table(
            graph, model, TARGET, cache_folder=tmp_path, progress=lambda *step: asked.append(step)
        )
        return table, asked

    first, asked = measure(4)
    assert len(first.grids) == 2
    assert asked
    again, asked = measure(4)
    assert again == first
    assert not asked
    path = table_path(tmp_path, TARGET)
    document = json.loads(path.read_text())
    for grid in document["grids"].values():
        grid["ms"] = [[2 * t for t in row] for row in grid["ms"]]
    path.write_text(json.dumps(document))
    other, asked = measure(5)
    assert asked
    assert (len(other.grids), len(other.factors)) == (3, 2)
    for signature, grid in first.grids.items():  # what was there is used as it was there
        doubled = tuple(tuple(2 * t for t in row) for row in grid.ms)
        assert other.grids[signature].ms == doubled
    assert LatencyTable.from_json(path.read_text()) == other


def test_what_names_its_sizes_is_measured_at_full_width_only(counted):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    graph = trace_channels(model, torch.empty(1, 3, 4, 4))
    graph.operators = tuple(
        replace(o, target=_fixed_view) if o.name == "1" else o for o in graph.operators
    )
    table = lm.measure_latency_table(graph, model, TARGET)
    grids = {o.name: table.grids[o.signature] for o in graph.operators}
    assert grids["1"].written == (8,)
    assert len(grids["2"].read) > 1


def _fixed_view(x):
    return x.view(-1, 8, 16)


def _broken(x):
    raise RuntimeError("no such kernel\nand many more lines")


def test_an_operator_that_does_not_run_is_named():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    graph = trace_channels(model, torch.empty(1, 3, 4, 4))
    graph.operators = (replace(graph.operators[1], target=_broken),)
    with pytest.raises(ValueError, match=r"operator '1' cannot be measured: no such kernel$"):
        lm.measure_latency_table(graph, model, TARGET)


def test_scopes_are_measured_alone(counted):
    inner = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))
    model = nn.Sequential(inner, nn.Conv2d(4, 2, 1))
    graph = trace_channels(model, torch.empty(1, 3, 8, 8), scope="0")
    measured = graph_with_latency(graph, lm.measure_latency_table(graph, model, TARGET))
    assert measured.count("latency_ms") == pytest.approx(2 * 64 * (3 * 8 + 8 * 4))


@pytest.mark.parametrize(
    ("size", "step", "expected"),
    [
        (64, 1, (1, 8, 16, 17, 32, 33, 48, 49, 64)),
        (12, 1, (1, 2, 3, 6, 9, 12)),
        (32, 8, (8, 16, 24, 32)),
    ],
)
def test_grid_of_a_side(size, step, expected):
    graph = trace_channels(
        nn.Sequential(nn.Conv2d(3, size, 1), nn.Conv2d(size, 2, 1)), torch.empty(1, 3, 2, 2)
    )
    operator = graph.operators[0]
    changed = replace(operator, step=(1, step))
    assert lm.grid_of(changed, 1) == expected
    assert lm.grid_of(changed, 0) == (1,)


def test_seconds_must_be_positive():
    graph = trace_channels(_chain(FULL), torch.empty(1, 3, 12, 12))
    with pytest.raises(ValueError, match="seconds is 0; it must be positive"):
        lm.measure_latency_table(graph, _chain(FULL), seconds=0)
