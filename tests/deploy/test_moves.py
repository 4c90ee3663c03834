from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.moves import (
    DONE_TAG,
    MAX_WHY_CHARS,
    MOVE_TAG,
    Move,
    in_order,
    is_moved_by_others,
    is_unfinished,
    moves_among,
    new_move_id,
    states,
    trail,
)


def move(number: int, source: int | None, target: int, kind="promotion", done=True, **others):
    return Move(
        move_id=new_move_id(),
        number=number,
        kind=kind,
        alias="champion",
        from_version=source,
        to_version=target,
        who="me@here",
        done=done,
        **others,
    )


@pytest.mark.parametrize("character", ["é", "😀"])
def test_a_record_survives_its_tag_and_fits_it_whatever_is_said(character):
    full = move(
        *(3, 1, 2),
        why=character * MAX_WHY_CHARS,
        sweep_id="s" * 200,
        trial_id="t" * 200,
        run_id="r" * 32,
        content_hash="c" * 64,
        score=0.987654321987,
        gates={f"robustness{i}": [True, 1.234567890123e-07, 0.0001] for i in range(10)},
    )
    name, value = full.tag()
    assert len(value) <= 5000
    assert len(name) <= 250
    assert moves_among({name: value}, 2) == [dataclasses.replace(full, done=False)]
    assert moves_among({name: value, DONE_TAG + full.move_id: "now"}, 2) == [full]
    assert json.loads(json.dumps(full.to_json()))["to_version"] == 2


def test_accuracies_are_recorded_as_before_there_were_other_metrics():
    """So that older versions of this package read what newer ones write, and the other way."""
    _, value = move(1, None, 1, score=0.9).tag()
    assert json.loads(value)["accuracy"] == 0.9
    assert not {"score", "metric"} & set(json.loads(value))
    other = move(1, None, 1, metric="psnr_db", score=20.5)
    name, value = other.tag()
    (read,) = moves_among({name: value}, 1)
    assert (read.metric, read.score) == ("psnr_db", 20.5)


def test_what_is_no_record_is_left_out():
    name, value = move(1, None, 1).tag()
    broken = {
        MOVE_TAG + "20260101T000000.000000Z.aa": "no JSON",
        MOVE_TAG + "20260101T000000.000000Z.bb": "[]",
        MOVE_TAG + "20260101T000000.000000Z.cc": '{"number": 1}',
        MOVE_TAG + "20260101T000000.000000Z.dd": value.replace('"number":1', '"number":"x"'),
        MOVE_TAG + "yesterday": value,
        "pas.accuracy": "0.9",
    }
    assert moves_among(broken, 1) == []
    assert len(moves_among({**broken, name: value}, 1)) == 1


def test_numbers_come_before_clocks():
    late = dataclasses.replace(move(1, None, 1), move_id="29990101T000000.000000Z.aa")
    early = dataclasses.replace(move(2, 1, 2), move_id="20010101T000000.000000Z.aa")
    twin = dataclasses.replace(move(2, 1, 3), move_id="20010101T000000.000000Z.bb")
    assert in_order([twin, early, late]) == [late, early, twin]


@given(st.lists(st.one_of(st.integers(1, 4), st.none()), max_size=25))
def test_the_trail_is_a_browsers_history(steps):
    """A version is gone to (a number), or one is gone back (None)."""
    pages, moves = [], []
    for number, step in enumerate(steps, 1):
        current = pages[-1] if pages else None
        if step is None and len(pages) > 1:
            pages.pop()
            moves.append(move(number, current, pages[-1], "rollback"))
        elif step is not None and step != current:
            pages.append(step)
            moves.append(move(number, current, step))
    assert trail(moves, pages[-1] if pages else None) == pages


def test_two_promotions_at_once_go_back_to_where_both_came_from():
    both = [move(1, None, 1), move(2, 1, 2), move(2, 1, 3)]
    assert trail(both, 3) == [1, 3]
    lost = [move(1, None, 1), move(2, 1, 2, done=False), move(2, 1, 3)]
    assert trail(lost, 3) == [1, 3]
    assert states(lost, 3) == ["past", "overtaken", "in force"]


def test_a_move_that_was_only_recorded_counts_for_nothing():
    moves = [move(1, None, 1), move(2, 1, 2, done=False)]
    assert is_unfinished(moves, 1)
    assert not is_moved_by_others(moves, 1)
    assert states(moves, 1) == ["past", "unfinished"]
    assert trail(moves, 1) == [1]
    assert states(moves, 2) == ["past", "in force"]  # it died just before saying so
    assert trail(moves, 2) == [1, 2]
    assert states([*moves, move(3, 1, 4)], 4) == ["past", "overtaken", "in force"]
    assert trail([*moves, move(3, 1, 4)], 4) == [1, 4]


def test_an_alias_that_others_moved_is_told_and_part_of_the_trail():
    moves = [move(1, None, 1), move(2, 1, 2)]
    assert not is_moved_by_others(moves, 2)
    assert is_moved_by_others(moves, 7)
    assert is_moved_by_others(moves, None)
    assert states(moves, 7) == ["past", "past"]
    assert trail(moves, 7) == [1, 2, 7]
    assert trail([*moves, move(3, 7, 8)], 8) == [1, 2, 7, 8]
    assert trail(moves, None) == [1, 2]


def test_a_rollback_to_a_version_further_on_adds_it():
    moves = [move(1, None, 1), move(2, 1, 2), move(3, 2, 1, "rollback")]
    assert trail([*moves, move(4, 1, 2, "rollback")], 2) == [1, 2]
