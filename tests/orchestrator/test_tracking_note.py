"""The description of a sweep: short enough for a tag, and what a person added is kept."""

from __future__ import annotations

import pytest

from orchestrator.records import TrialRecord
from orchestrator.tracking_note import END, SweepFacts, sweep_note, what_was_added, widths_text
from orchestrator.tracking_requests import MAX_TAG_CHARS


def trial(budget, number, accuracy, **fields):
    return TrialRecord(
        trial_id=f"b{budget:g}-s10-{number}",
        sweep_id="digits-1a2b3c",
        status="FINISHED",
        budget=budget,
        strength=10.0,
        number=number,
        score=accuracy,
        macs=round(1e6 * budget),
        macs_ratio=budget,
        **fields,
    )


def facts(**fields):
    return SweepFacts(sweep_id="digits-1a2b3c", experiment_id="7", resource="macs", **fields)


def test_each_budget_has_its_best_trial_and_controls_follow():
    records = [trial(0.5, 0, 0.8), trial(0.5, 1, 0.9), trial(0.25, 0, 0.7)]
    control = trial(0.5, 9, 0.95, control="uniform")
    lines = sweep_note(facts(run_ids={"b0.5-s10-1": "abc"}), [*records, control]).splitlines()
    rows = [line for line in lines if line.startswith("|")][2:]
    assert [row.split("&ensp;")[0] for row in rows] == [
        "| 0.5\u00a0x\u00a0MACs",
        "| 0.25\u00a0x\u00a0MACs",
        "| 0.5\u00a0x\u00a0MACs",
    ]
    assert "[b0.5-s10-1](#/experiments/7/runs/abc?" in rows[0]
    assert "★" in rows[0]
    assert "★" not in rows[2]
    assert "2 on the front; 1 controls" in lines[0]


def test_a_sweep_of_very_many_budgets_still_fits():
    records = [trial(0.9 - 0.001 * n, n, 0.5) for n in range(300)]
    note = sweep_note(facts(run_ids={r.trial_id: "f" * 32 for r in records}), records)
    assert 7000 < len(note) <= MAX_TAG_CHARS
    assert "more: `pas compare`" in note
    assert note.endswith(END)


@pytest.mark.parametrize(
    ("resource", "limits", "words"),
    [
        ("latency_ms", {0.8: 0.8, 0.5: 0.5}, "--budget '0.8 ms'"),
        ("latency_ms", {0.8: 1.6}, "--budget 0.8 "),
        ("macs", {300000.0: 300000.0}, "--budget 300000 "),
        ("macs", {1234564.0: 1234564.0}, "--budget 1234564 "),
    ],
)
def test_the_command_to_promote_can_be_copied(resource, limits, words):
    about = SweepFacts(sweep_id="a-1", experiment_id="7", resource=resource, limits=limits)
    assert words in sweep_note(about, [])


def test_what_a_person_wrote_stays():
    assert what_was_added("") == what_was_added(f"old {END}") == ""
    assert what_was_added("mine") == what_was_added(f"old {END}\n\nmine") == "mine"
    assert sweep_note(facts(), [], "mine").endswith(f"{END}\n\nmine")


def test_rows_make_room_for_what_a_person_wrote():
    records = [trial(0.9 - 0.001 * n, n, 0.5) for n in range(300)]
    added = "long " * 1000
    note = sweep_note(facts(), records, added.strip())
    assert len(note) <= MAX_TAG_CHARS
    assert what_was_added(note) == added.strip()
    assert "more: `pas compare`" in note


def test_widths_in_words():
    assert widths_text({"a": 4, "b": 1000}) == "1,004 (4 to 1000 a group)"
    assert widths_text({"a": 4, "b": 4}) == "8 (4 a group)"
    assert widths_text(None) == ""
