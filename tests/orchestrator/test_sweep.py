"""A sweep's bookkeeping without Ray: the test plays the workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.home import Home
from orchestrator.loading import load_sweep
from orchestrator.preflight import make_plan
from orchestrator.sweep import Sweep, build_studies
from orchestrator.tracking import SweepTracker
from orchestrator.tracking_reader import find_sweep, load_records
from orchestrator.worker import failed, read_result, write_result

DIGITS = Path(__file__).parents[2] / "examples" / "digits.yaml"


class Unseen:
    """Nobody watches."""

    def trial_started(self, record): ...

    def trial_progress(self, trial_id, progress): ...

    def trial_ended(self, record): ...


def driver(home: Home, *sets: str) -> tuple[Sweep, SweepTracker]:
    cells = ["budget.limits=[0.5]", "strengths=[1]", "trials_per_cell=3"]
    plan = make_plan(load_sweep(DIGITS, [*cells, *sets]))
    tracker = SweepTracker(
        uri=home.mlflow_uri,
        sweep_id=plan.config.sweep_id,
        name="digits",
        experiment="digits",
        params={},
        tags={},
        artifacts={},
    ).start()
    sweep = Sweep(plan, home, build_studies(plan, home), tracker, Unseen())
    sweep.catch_up()
    return sweep, tracker


def epoch(phase: str, **seconds: float) -> dict[str, object]:
    return {
        "step": 0, "phase": phase, "epoch": 5, "num_epochs": 20, "loss": 0.1, "accuracy": 0.5,
        "macs_ratio": 0.5, "seconds": seconds,
    }  # fmt: skip


def test_trials_that_do_not_finish_have_seconds_and_a_price_too(tmp_path):
    home, prices = Home(tmp_path), "resources.prices={cpu_hour: 3600}"
    sweep, tracker = driver(home, "resources.cpus_per_trial=2", prices)
    sweep.meter.set_slots(1)
    stopped, broken, lost = (sweep.next_job() for _ in range(3))
    assert stopped is not None
    assert broken is not None
    assert lost is not None
    for job in (stopped, broken, lost):
        sweep.trial_started(job.trial_id)
        sweep.epoch_done(job.trial_id, epoch("search", search=2.0))
    sweep.epoch_done(stopped.trial_id, epoch("finetune", search=2.0, finetune=3.0))
    sweep.trial_done(stopped.trial_id)  # by the scheduler: it has no result
    write_result(broken, failed(broken, "the loss became nan"))
    sweep.trial_done(broken.trial_id)
    sweep.meter.ended(lost.trial_id, lost=True)
    sweep.trial_lost(lost.trial_id, "its workers died")
    sweep.account()
    tracker.close("FINISHED")

    records = load_records(home.mlflow_uri, "digits")
    assert [r.status for r in records] == ["PRUNED", "FAILED", "FAILED"]
    assert [r.search_seconds for r in records] == [2.0] * 3
    assert [r.finetune_seconds for r in records] == [3.0, None, None]
    assert [r.cpu_seconds for r in records] == [10.0, 4.0, 4.0]
    assert [r.price for r in records] == [10.0, 4.0, 4.0]
    kept = read_result(broken)
    assert kept is not None
    assert (kept.cpu_seconds, kept.price) == (4.0, None)  # prices may change
    totals = find_sweep(home.mlflow_uri, "digits").totals
    assert totals["price"] == pytest.approx(totals["cpu_seconds"])
    assert totals["price"] > 0

    sweep, tracker = driver(home, "resources.prices={cpu_hour: 7200}")
    sweep.account()
    tracker.close("FINISHED")
    assert [r.price for r in load_records(home.mlflow_uri, "digits")] == [20.0, 8.0, 8.0]
    again = find_sweep(home.mlflow_uri, "digits").totals
    assert again == totals | {"price": pytest.approx(2 * totals["price"])}
