from __future__ import annotations

import dataclasses
import io

from rich.console import Console

from orchestrator.cells import Cell
from orchestrator.progress import ProgressBoard
from orchestrator.records import TrialRecord
from orchestrator.tables import (
    best_of,
    compare_table,
    controls_tables,
    front_table,
    plan_table,
    trial_table,
)


def record(number: int, status="FINISHED", **values) -> TrialRecord:
    defaults = {
        "macs": 500_000,
        "macs_ratio": 0.5,
        "num_params": 1234,
        "score": 0.9,
        "test_score": 0.88,
    }
    results = {**defaults, **values} if status == "FINISHED" else values
    return TrialRecord(
        trial_id=f"b0.5-s10-{number}",
        sweep_id="s-1",
        status=status,
        budget=0.5,
        strength=10.0,
        number=number,
        **results,
    )


def shown(item) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(item)
    return console.file.getvalue()


def test_the_best_is_the_most_accurate_then_the_cheapest():
    a, b = record(0, score=0.9, macs=10), record(1, score=0.9, macs=5)
    assert best_of([a, b, record(2, score=0.8), record(3, "FAILED")]) is b
    assert best_of([record(0, "RUNNING")]) is None


def test_the_cheapest_is_that_in_the_limited_resource():
    small = record(0, num_params=1000, macs=9, on_front=True)
    large = record(1, num_params=2000, macs=5)
    assert best_of([small, large], "num_params") is small
    assert "1 k ★" in shown(compare_table([small, large], "num_params", "s-1"))


def test_what_was_not_written_by_us_is_no_markup():
    failed = record(0, "FAILED", error="expected [torch.float32], see [/data/x.png]")
    text = shown(trial_table([failed], "files in /home/me[1]"))
    assert "expected [torch.float32], see [/data/x.png]" in text
    assert "files in /home/me[1]" in text


def test_tables_name_the_metric_and_follow_it():
    lower = {"metric": "swd", "higher_is_better": False, "test_score": 0.5}
    near, far = record(0, score=0.25, **lower), record(1, score=0.75, **lower)
    assert best_of([far, near]) is near
    text = shown(compare_table([far, near], "macs", "s-1", (0.125, 0.5)))
    assert "0.2500 (0.5000)" in text
    assert "validation swd" in text
    loud = record(0, metric="psnr_db", score=21.456, test_score=20.0, on_front=True)
    text = shown(front_table([loud], "front"))
    assert "PSNR" in text
    assert "21.46 dB" in text


def test_cells_show_their_best_and_what_is_missing():
    records = [record(0, score=0.91, on_front=True), record(1, "FAILED", error="lost")]
    text = shown(compare_table(records, "macs", "s-1", (0.95, 0.94)))
    assert "0.9100 (0.8800) 0.500 ★ 1/2" in text
    assert "supernet: 0.9500 (0.9400)" in text


def control(kind: str, status="FINISHED", **values) -> TrialRecord:
    results = {"score": 0.99, "test_score": 0.98} if status == "FINISHED" else {}
    made = record(0, status, **results, **values)
    trial_id = "control-supernet" if kind == "supernet" else "control-uniform-b0.5"
    return dataclasses.replace(made, trial_id=trial_id, control=kind, strength=0.0)


def test_controls_have_columns_of_their_own_and_are_no_ones_best():
    trial = dataclasses.replace(record(0, score=0.91), strength=0.0)
    records = [trial, control("uniform", macs_ratio=0.49), control("supernet", macs_ratio=1.0)]
    assert best_of(records) is trial
    lines = shown(compare_table(records, "macs", "s-1")).splitlines()
    (head,) = [line for line in lines if "limit" in line]
    assert head.index("strength 0") < head.index("uniform") < head.index("supernet, trained on")
    (row,) = [line for line in lines if "0.9100" in line]
    cells = [cell.strip() for cell in row.split("│")[2:-1]]
    assert cells[0] == "0.9100 (0.8800) 0.500"
    assert cells[1] == "0.9900 (0.9800) 0.490"
    assert cells[2] == "0.9900 (0.9800) 1.000"
    assert "controls" in shown(compare_table(records, "macs", "s-1"))
    assert "controls" not in shown(compare_table([trial], "macs", "s-1"))


def test_controls_are_beside_the_front_not_in_it():
    records = [record(0, on_front=True), control("uniform", on_front=True)]
    assert "control-uniform" not in shown(front_table(records, "front"))
    (table,) = controls_tables(records)
    assert "controls, for comparison" in shown(table)
    assert "control-uniform-b0.5" in shown(table)
    assert "b0.5-s10-0" not in shown(table)
    assert controls_tables([record(0), control("uniform", status="FAILED")]) == []


def test_the_board_counts_controls_by_themselves():
    console = Console(file=io.StringIO(), width=140, force_terminal=True)
    board = ProgressBoard(console, "digits", [Cell(0.5, 0.0)], 1, num_controls=2)
    board.trial_started(control("uniform", status="RUNNING"))
    progress = {
        "phase": "control",
        "epoch": 2,
        "num_epochs": 5,
        "score": 0.625,
        "macs_ratio": 0.7,
    }
    board.trial_progress("control-uniform-b0.5", progress)
    board.trial_ended(control("supernet"))
    text = shown(board._render())
    for part in ("0/1 trials", "1/2 controls", "control-uniform-b0.5", "2/5", "[·]"):
        assert part in text


def test_only_the_front_is_in_its_table():
    text = shown(front_table([record(0, on_front=True), record(1)], "front"))
    assert "b0.5-s10-0" in text
    assert "b0.5-s10-1" not in text
    assert "500 k" in text


def test_costs_are_those_of_the_sweeps_resource():
    fast = record(0, on_front=True, latency_ms=2.5, predicted_latency_ms=1.25, macs=900_000)
    slow = record(1, on_front=True, latency_ms=0.5, predicted_latency_ms=3.5, macs=100_000)
    text = shown(compare_table([slow, fast], "latency_ms", "s-1"))
    assert "0.9000 (0.8800) 1.25 ★" in text
    assert "milliseconds predicted" in text
    lines = shown(front_table([slow, fast], "front", "latency_ms")).splitlines()
    rows = [line for line in lines if "b0.5" in line]
    assert [row.split()[1] for row in rows] == ["b0.5-s10-0", "b0.5-s10-1"]
    assert "2.5" in rows[0]
    assert "1.25" in rows[0]
    assert "less latency_ms" in lines[-1]
    small = record(0, on_front=True, activation_bytes=12_345)
    assert "12.3 k" in shown(compare_table([small], "activation_bytes", "s-1"))
    assert "12.3 k" in shown(front_table([small], "front", "activation_bytes"))


def test_failures_show_their_sentence():
    assert "the loss became nan" in shown(
        trial_table([record(0, "FAILED", error="the loss became nan")], "trials")
    )


def test_the_board_shows_cells_trials_phase_and_accuracy():
    console = Console(file=io.StringIO(), width=140, force_terminal=True)
    board = ProgressBoard(console, "digits", [Cell(0.5, 10.0), Cell(0.25, 10.0)], 2)
    board.trial_started(record(0, "RUNNING"))
    progress = {
        "phase": "search",
        "epoch": 2,
        "num_epochs": 5,
        "score": 0.625,
        "macs_ratio": 0.7,
    }
    board.trial_progress("b0.5-s10-0", progress)
    board.trial_ended(record(1, score=0.75))
    text = shown(board._render())
    for part in ("1/4 trials", "search", "2/5", "0.6250", "0.700", "[▶■] 0.7500", "[··]"):
        assert part in text


def test_without_a_terminal_the_board_prints_lines():
    console = Console(file=io.StringIO(), width=140)
    with ProgressBoard(console, "digits", [Cell(0.5, 10.0)], 1) as board:
        board.trial_started(record(0, "RUNNING"))
        board.trial_ended(record(0, score=0.75))
    assert console.file.getvalue().splitlines() == [
        "b0.5-s10-0: started",
        "b0.5-s10-0: FINISHED accuracy 0.7500 at 0.5000 of the MACs",
    ]


def test_a_plan_shows_the_first_reasons_and_counts_the_rest():
    ops = [{"module": f"head{i}", "reason": "no rule"} for i in range(6)]
    summary = {"limits": {"0.5": 10}, "cells": ["a", "b"], "supernet_weights": None, "ops": ops}
    lines = [" ".join(line.split()) for line in shown(plan_table(summary)).splitlines()]
    assert lines == [
        "limits 0.5: 10",
        "cells a, b",
        "supernet_weights none",
        "ops head0: no rule",
        "head1: no rule",
        "head2: no rule",
        "head3: no rule",
        "and 2 more, see --json",
    ]
