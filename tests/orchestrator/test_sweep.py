"""A sweep's bookkeeping without Ray: the test plays the workers."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tracked_sweeps import load_records

from orchestrator.home import Home, write_json
from orchestrator.loading import load_sweep
from orchestrator.node_files import on_node
from orchestrator.preflight import make_plan
from orchestrator.sweep import Sweep, build_studies
from orchestrator.sweep_files import files_of
from orchestrator.tracking import SweepTracker
from orchestrator.tracking_reader import find_sweep
from orchestrator.worker import failed, read_result, started, write_result

DIGITS = Path(__file__).parents[2] / "examples" / "digits.yaml"


class Unseen:
    """Nobody watches."""

    def trial_started(self, record): ...

    def trial_progress(self, trial_id, progress): ...

    def trial_ended(self, record): ...


def driver(
    home: Home, *sets: str, taken_over: threading.Event | None = None
) -> tuple[Sweep, SweepTracker]:
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
    files = files_of(home, plan.config.sweep_id, plan.config.storage.uri)
    studies = build_studies(plan, home)
    sweep = Sweep(plan, home, studies, tracker, Unseen(), files=files, taken_over=taken_over)
    sweep.catch_up()
    return sweep, tracker


def epoch(phase: str, **seconds: float) -> dict[str, object]:
    return {
        "step": 0, "phase": phase, "epoch": 5, "num_epochs": 20, "loss": 0.1,
        "score": 0.5, "gain": 0.5, "metrics": [("accuracy", 0.5)],
        "macs_ratio": 0.5, "seconds": seconds,
    }  # fmt: skip


def test_what_was_lost_on_its_way_to_a_worker_is_handed_out_again(tmp_path):
    sweep, tracker = driver(Home(tmp_path))
    first, second, third = (sweep.next_job() for _ in range(3))
    sweep.trial_started(first.trial_id)
    write_result(first, failed(first, "the loss became nan"))
    sweep.trial_started(second.trial_id)
    assert sweep.next_job() is None
    assert sweep.take_back()
    assert [sweep.next_job() for _ in range(3)] == [second, third, None]
    for job in (second, third):
        sweep.trial_started(job.trial_id)
        write_result(job, failed(job, "the loss became nan"))
        sweep.trial_done(job.trial_id)
    assert not sweep.take_back()
    assert [r.status for r in sweep.ended_records()] == ["FAILED"] * 3
    tracker.close("FINISHED")


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


@pytest.mark.parametrize("kind", ["home", "store"])
def test_a_sweep_goes_on_without_its_studies(tmp_path, object_store, monkeypatch, kind):
    """And without all of its home folder where files lie on an object store."""
    monkeypatch.setenv("PAS_CACHE", str(tmp_path / "cache"))
    storage = [] if kind == "home" else [f"storage.uri={object_store.upload({}, 'p')}"]
    ranges = "hyperparameters={learning_rate: {low: 0.01, high: 0.1}}"
    home = Home(tmp_path / "first")
    sweep, tracker = driver(home, ranges, *storage)
    begun = [sweep.next_job() for _ in range(3)]
    ended, running, waiting = (job for job in begun if job is not None)
    for job in (ended, running):
        sweep.trial_started(job.trial_id)
        on_node(job, lambda _: None, lambda here, _: leave(here, running.trial_id))
    sweep.trial_done(ended.trial_id)
    tracker.close("KILLED")
    if kind == "home":
        (home.root / "optuna.db").unlink()
    else:
        home = Home(tmp_path / "second")

    taken_over = threading.Event()
    sweep, tracker = driver(home, ranges, *storage, taken_over=taken_over)
    again = [sweep.next_job() for _ in range(3)]
    assert again[2] is None
    assert [job.trial_id for job in again if job] == [running.trial_id, waiting.trial_id]
    assert again[0] is not None
    assert again[0].hyperparameters == running.hyperparameters
    sweep.trial_started(running.trial_id)
    taken_over.set()
    sweep.trial_done(running.trial_id)
    assert read_result(again[0]) is None  # that is for the other driver to say
    assert (sweep.stop_reason or "").startswith("another driver has taken it over")
    tracker.close("KILLED")
    records = {r.trial_id: r for r in load_records(home.mlflow_uri, "digits")}
    assert records[ended.trial_id].status == "FAILED"
    assert records[ended.trial_id].hyperparameters == ended.hyperparameters


def leave(job, running: str) -> None:
    """What a worker leaves of a trial that runs, or has ended."""
    write_json(job.folder / "trial.json", started(job).to_json())
    if job.trial_id != running:
        write_result(job, failed(job, "the loss became nan"))
