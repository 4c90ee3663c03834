from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from orchestrator.accounting import booked, priced, summary, summary_text
from orchestrator.records import TrialRecord
from orchestrator.sections import PriceConfig
from orchestrator.tables import trial_table

TRIAL = TrialRecord(
    trial_id="b0.125-s100-11", sweep_id="s-1", status="FINISHED", budget=0.125, strength=100.0,
    number=11, score=0.98765, macs_ratio=0.1234567,
    hyperparameters={"learning_rate": 0.0543210, "gate_learning_rate": 0.123456},
)  # fmt: skip


def timed(cpus: float, gpus: float, **seconds: float) -> TrialRecord:
    return dataclasses.replace(TRIAL, **booked(seconds, cpus, gpus))


def test_a_trial_uses_what_it_books_for_as_long_as_it_runs():
    record = timed(2, 0.5, search=600.0, finetune=3000.0)
    assert (record.search_seconds, record.finetune_seconds, record.control_seconds) == (
        600,
        3000,
        None,
    )
    assert (record.seconds, record.cpu_seconds, record.gpu_seconds) == (3600, 7200, 1800)
    assert TRIAL.seconds is None


def test_a_price_needs_prices_and_seconds():
    prices = PriceConfig(cpu_hour=0.04, gpu_hour=2.5)
    record = timed(2, 0.5, search=600.0, finetune=3000.0)
    assert priced(record, prices).price == pytest.approx(2 * 0.04 + 0.5 * 2.5)
    assert priced(record, PriceConfig(gpu_hour=1.0)).price == pytest.approx(0.5)
    assert priced(record, None).price is None
    assert priced(TRIAL, prices) is TRIAL


TOTALS = {
    "cpu_seconds": 9000.0,
    "gpu_seconds": 3600.0,
    "pretrain_seconds": 720.0,
    "lost_seconds": 90.0,
    "utilization": 0.974,
    "price": 1234.5,
    "compute_saved": 0.25,
}


def test_a_sweeps_summary_says_what_for():
    control = dataclasses.replace(TRIAL, control="uniform", **booked({"control": 360.0}, 1, 0))
    records = [timed(1, 0, search=1800.0, finetune=3600.0), timed(1, 0, search=1800.0), control]
    used = summary(records, TOTALS, "EUR")
    hours = {"pretrain": 0.2, "search": 1.0, "finetune": 1.0, "control": 0.1, "lost": 0.025}
    assert used["hours"] == pytest.approx(hours)
    assert summary_text(used) == (
        "2 trials, 1 controls: 2.50 CPU hours, 1.00 GPU hours, utilization 97%, "
        "price 1,234.50 EUR, compute saved by early stopping 25%\n"
        "hours in slots: pre-training 0.2000, search 1.00, fine-tuning 1.00, controls 0.1000, "
        "lost to failures 0.0250"
    )


def test_what_is_not_known_is_not_shown():
    used = summary([TRIAL], {}, "")
    assert summary_text(used) == "1 trials"
    assert (used["cpu_hours"], used["price"], used["currency"], used["hours"]) == (
        None,
        None,
        None,
        {},
    )


def shown(records: list[TrialRecord]) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    console.print(trial_table(records, "trials"))
    return console.file.getvalue().splitlines()


def test_the_table_has_columns_for_what_is_known_and_fits():
    record = timed(1, 0, search=36_000.0, finetune=3725.0)
    lines = shown([dataclasses.replace(record, price=1234.567), TRIAL])
    (row,) = [line for line in lines if "11:02:05" in line]
    for part in ("b0.125-s100-11", "FINISHED", "0.9877", "0.1235", "1,234.57"):
        assert part in row
    assert max(map(len, lines)) <= 100
    assert "price" not in "".join(shown([record]))
    assert "time" not in "".join(shown([TRIAL]))
