"""The picture shows what the records say, and the page needs no network."""

from __future__ import annotations

import math
import re

import pytest

from orchestrator.pareto import front
from orchestrator.plots import front_figure, front_html
from orchestrator.records import TrialRecord


def trial(number, macs, accuracy, strength=1.0, status="FINISHED", budget=0.5, **fields):
    return TrialRecord(
        trial_id=f"b{budget}-s{strength}-{number}",
        sweep_id="s",
        status=status,
        budget=budget,
        strength=strength,
        number=number,
        macs=macs,
        macs_ratio=None if macs is None else macs / 1000,
        num_params=None if macs is None else macs * 3,
        score=accuracy,
        hyperparameters={"learning_rate": 0.0123},
        **fields,
    )


RECORDS = [
    trial(0, 480, 0.9, 10.0, latency_ms=1.5),
    trial(1, 250, 0.7, 1.0, budget=0.25),
    trial(2, 490, 0.6, 100.0),
    trial(3, 100, 0.95, 1.0, status="PRUNED"),
    trial(4, None, None, 1.0, status="RUNNING"),
    trial(5, 100, math.nan, 1.0),
]


def traces(figure):
    return {trace.name: trace for trace in figure.data}


def test_every_finished_trial_is_drawn_at_its_ratio():
    figure = front_figure(RECORDS, "macs", "digits")
    by_name = traces(figure)
    assert sorted(by_name) == ["1", "10", "100", "front"]
    assert by_name["10"].x == pytest.approx([0.48])
    assert by_name["1"].y == pytest.approx([0.7])
    assert len({by_name[name].marker.color for name in ("1", "10", "100")}) == 3


def test_the_front_is_a_step_line_through_its_members():
    line = traces(front_figure(RECORDS, "macs", "digits"))["front"]
    assert line.line.shape == "hv"
    assert list(line.x) == pytest.approx([r.macs_ratio for r in front(RECORDS)])
    assert list(line.y) == pytest.approx([0.7, 0.9])


def test_limits_are_vertical_lines():
    figure = front_figure(RECORDS, "macs", "digits", limits=[250, 500])
    assert sorted({shape.x0 for shape in figure.layout.shapes}) == [0.25, 0.5]
    absolute = front_figure(RECORDS, "latency_ms", "x", limits=[0.8])
    assert [shape.x0 for shape in absolute.layout.shapes] == [0.8]
    assert absolute.layout.annotations[0].text == "limit 0.8"


def test_another_resource_is_absolute_unless_told_the_supernets_cost():
    assert traces(front_figure(RECORDS, "num_params", "x"))["10"].x == pytest.approx([1440])
    relative = front_figure(RECORDS, "num_params", "x", reference_cost=3000)
    assert traces(relative)["10"].x == pytest.approx([0.48])


def test_latencies_are_the_predicted_ones_where_there_are_any():
    records = [trial(0, 480, 0.9, latency_ms=1.5, predicted_latency_ms=1.2)]
    figure = front_figure(records, "latency_ms", "x", reference_cost=2.4)
    assert traces(figure)["1"].x == pytest.approx([0.5])
    assert "1.2 ms predicted" in traces(figure)["1"].hovertext[0]


def test_hover_tells_the_trial():
    text = traces(front_figure(RECORDS, "macs", "x"))["10"].hovertext[0]
    for piece in (
        "b0.5-s10.0-0",
        "budget 0.5",
        "strength 10",
        "1,440 parameters",
        "1.5 ms measured",
    ):
        assert piece in text
    assert "learning_rate = 0.0123" in text


def test_controls_have_markers_of_their_own_and_are_not_on_the_front():
    uniform = trial(0, 90, 0.99, 0.0, control="uniform")
    supernet = trial(0, 1000, 0.97, 0.0, control="supernet")
    by_name = traces(front_figure([*RECORDS, uniform, supernet], "macs", "x"))
    assert sorted(by_name) == ["1", "10", "100", "front", "supernet, trained on", "uniform"]
    assert by_name["uniform"].x == pytest.approx([0.09])
    assert by_name["supernet, trained on"].x == pytest.approx([1.0])
    symbols = {name: t.marker.symbol for name, t in by_name.items() if name != "front"}
    assert len({symbols["uniform"], symbols["supernet, trained on"], symbols["1"]}) == 3
    assert "control: uniform" in by_name["uniform"].hovertext[0]
    assert list(by_name["front"].y) == pytest.approx([0.7, 0.9])


def test_nothing_finished_still_draws():
    figure = front_figure([], "macs", "empty")
    assert len(figure.data) == 0
    assert "no finished trial" in figure.layout.annotations[0].text


def test_the_page_needs_no_network():
    page = front_html(RECORDS, "macs", "<digits> & more")
    assert len(page) > 1_000_000
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", page[:5000] + page[-20000:])
    assert "<digits>" not in page[-20000:]
