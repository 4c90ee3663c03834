"""The pictures show what the records say."""

from __future__ import annotations

import math

import pytest

from orchestrator.records import TrialRecord
from orchestrator.report_figures import (
    Curve,
    cells_figure,
    curves_figure,
    importance_figure,
    report_front,
)
from orchestrator.report_widths import search_widths_figure, widths_figure


def trial(number, accuracy, budget=0.5, strength=1.0, status="FINISHED", **fields):
    values = {"macs": round(1000 * budget), "macs_ratio": budget, "widths": {"a": 3, "b": 8}}
    return TrialRecord(
        trial_id=f"b{budget:g}-s{strength:g}-{number}",
        sweep_id="s",
        status=status,
        budget=budget,
        strength=strength,
        number=number,
        score=accuracy,
        **({} if status != "FINISHED" else values) | fields,
    )


def test_a_cell_shows_its_best_and_how_many_finished():
    records = [
        trial(0, 0.9),
        trial(1, 0.95),
        trial(2, None, status="FAILED"),
        trial(0, None, strength=10.0, status="PRUNED"),
        trial(0, 0.7, budget=0.25),
        trial(0, 0.99, control="uniform"),
    ]
    figure = cells_figure(records)
    (cells,) = figure.data
    assert (list(cells.x), list(cells.y)) == (["1", "10"], ["0.25", "0.5"])
    assert [list(row) for row in cells.z] == [[0.7, None], [0.95, None]]
    assert cells.text[1][0] == "<b>95.00 %</b><br>2 of 3 finished"
    assert cells.text[0][1] == ""
    assert [a.text for a in figure.layout.annotations] == ["0 of 1 finished"]


@pytest.mark.parametrize("num_layers", [1, 9, 60])
def test_widths_stand_beside_the_supernets(num_layers):
    supernet = {f"layer{i}": 16 for i in range(num_layers)}
    member = trial(0, 0.9, widths=dict.fromkeys(supernet, 4))
    (widths,) = widths_figure([member], supernet).data
    assert list(widths.x) == ["b0.5-s1-0 50.0%", "<b>supernet</b>"]
    assert list(widths.y) == list(supernet)
    assert [list(row) for row in widths.text] == [[4, 16]] * num_layers
    assert [list(row) for row in widths.z] == [[0.25, 1.0]] * num_layers


def test_without_the_supernet_the_widest_is_the_measure():
    members = [trial(0, 0.9), trial(1, 0.8, widths={"a": 6})]
    (widths,) = widths_figure(members, None).data
    assert [list(row) for row in widths.z] == [[0.5, 1.0], [1.0, None]]
    assert [list(row) for row in widths.text] == [[3, 6], [8, ""]]


def test_a_curve_is_dotted_while_searching():
    curve = Curve(
        epochs=[1, 2, 3, 4],
        macs_ratio=[1, 0.6, 0.5, 0.5],
        score=[0.1, 0.2, 0.3, 0.4],
        num_search=2,
    )
    members = [trial(0, 0.9), trial(1, 0.8)]
    figure = curves_figure(members, {members[0].trial_id: curve}, 0.95)
    drawn = [(t.line.dash, list(t.x), list(t.y), t.yaxis) for t in figure.data]
    assert drawn == [
        ("dot", [1, 2], [1, 0.6], "y"),
        ("solid", [2, 3, 4], [0.6, 0.5, 0.5], "y"),
        ("dot", [1, 2], [0.1, 0.2], "y2"),
        ("solid", [2, 3, 4], [0.2, 0.3, 0.4], "y2"),
    ]
    assert [shape.y0 for shape in figure.layout.shapes] == [0.95]
    assert [t.showlegend for t in figure.data] == [False, True, False, False]


def test_a_trial_that_was_only_fine_tuned_or_only_searched_is_drawn():
    member = trial(0, 0.9)
    for num_search in (0, 2):
        curve = Curve(epochs=[1, 2], macs_ratio=[1, 1], score=[0, 1], num_search=num_search)
        figure = curves_figure([member], {member.trial_id: curve}, None)
        assert {x for t in figure.data for x in t.x} == {1, 2}


def test_widths_of_the_search_are_shares_of_what_they_were():
    members = [trial(0, 0.9), trial(1, 0.8), trial(2, 0.7)]
    known = {"epochs": [1, 2], "macs_ratio": [1, 1], "score": [0, 1], "num_search": 2}
    curves = {
        members[0].trial_id: Curve(**known, width_epochs=[1, 2], widths={"a": [8, 4], "b": [4, 4]}),
        members[1].trial_id: Curve(**known),
        members[2].trial_id: Curve(**known, width_epochs=[5, 6], widths={"a": [8, 2]}),
    }
    figure = search_widths_figure(members, curves)
    first, last = figure.data
    assert [list(row) for row in first.z] == [[1, 0.5], [1, 1]]
    assert [list(row) for row in last.z] == [[1, 0.25]]
    assert (list(first.x), list(last.x)) == ([1, 2], [5, 6])
    assert (first.visible, last.visible) == (False, True)
    (menu,) = figure.layout.updatemenus
    assert [b.label for b in menu.buttons] == [members[0].trial_id, members[2].trial_id]
    assert [b.args[0]["visible"] for b in menu.buttons] == [[True, False], [False, True]]


def test_the_most_important_is_on_top():
    (bars,) = importance_figure({"b": 0.7, "a": 0.3}).data
    assert list(bars.y) == ["a", "b"]
    assert list(bars.x) == [0.3, 0.7]


def test_names_are_text():
    hostile = "<a href='https://x'>"
    member = trial(0, 0.9, widths={hostile: 1})
    figures = [widths_figure([member], None), importance_figure({hostile: 1.0})]
    assert all("<a" not in figure.to_json() for figure in figures)


def test_very_many_trials_are_drawn_by_webgl_and_say_less():
    records = [trial(i, 0.5 + 0.4 * math.sin(i), num_params=7) for i in range(2001)]
    for count, kind in ((2000, "scatter"), (2001, "scattergl")):
        figure = report_front(records[:count], "macs", 1000, [500])
        by_name = {trace.name: trace for trace in figure.data}
        assert by_name["strength 1"].type == kind
        assert len(by_name["strength 1"].x) == count
        assert ("parameters" in by_name["strength 1"].hovertext[0]) == (kind == "scatter")
    assert [a.text for a in figure.layout.annotations] == ["50%"]
