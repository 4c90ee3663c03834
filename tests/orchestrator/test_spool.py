"""Curves of trials outlive both the tracking store's absence and the driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.home import Home
from orchestrator.loading import load_sweep
from orchestrator.preflight import make_plan
from orchestrator.spool import FILE, Epoch, drop_epochs, keep_epoch, kept_epochs, widths_by_epoch
from orchestrator.sweep import Sweep, build_studies
from orchestrator.tracking import SweepTracker, TrackingError
from orchestrator.tracking_reader import find_sweep
from orchestrator.tracking_server import open_client
from orchestrator.worker import failed, write_result

DIGITS = Path(__file__).parents[2] / "examples" / "digits.yaml"


def test_epochs_come_back_in_order_without_a_torn_line(tmp_path):
    folder = tmp_path / "trial"
    assert kept_epochs(folder) == []
    epochs = [Epoch(step, 1000 + step, {"loss": 0.1 * step, "phase": 0.0}) for step in (1, 2, 3)]
    for epoch in epochs:
        keep_epoch(folder, epoch)
    assert kept_epochs(folder) == epochs
    text = (folder / FILE).read_text()
    (folder / FILE).write_text(text[:-20])  # killed while it wrote
    assert kept_epochs(folder) == epochs[:2]
    keep_epoch(folder, epochs[0])  # a full disk has room again
    keep_epoch(folder, epochs[2])
    assert kept_epochs(folder) == [*epochs[:2], epochs[0], epochs[2]]
    drop_epochs(folder)
    drop_epochs(folder)
    assert kept_epochs(folder) == []


def test_widths_are_those_of_the_search_each_epoch_once():
    epochs = [
        Epoch(1, 10, {}, {"a": 8, "b": 4}),
        Epoch(2, 20, {}, {"a": 6, "b": 4}),
        Epoch(2, 30, {}, {"a": 6, "b": 4}),  # a resumed trial tells its last epoch again
        Epoch(3, 40, {}),
    ]
    assert widths_by_epoch(epochs) == {"epochs": [1, 2], "widths": {"a": [8, 6], "b": [4, 4]}}
    assert widths_by_epoch(epochs[3:]) == {}


class Driver:
    """One process's view of the same small sweep."""

    def __init__(self, home: Home) -> None:
        sets = ["budget.limits=[0.5]", "strengths=[1]", "trials_per_cell=1"]
        plan = make_plan(load_sweep(DIGITS, sets))
        self.sweep_id = plan.config.sweep_id
        self.tracker = SweepTracker(
            uri=home.mlflow_uri,
            sweep_id=self.sweep_id,
            name="digits",
            experiment="digits",
            params={},
            tags={},
            artifacts={},
            delivered=lambda trial_id: drop_epochs(home.trial(self.sweep_id, trial_id)),
        ).start()
        self.sweep = Sweep(plan, home, build_studies(plan, home), self.tracker, Unseen())
        self.sweep.catch_up()


class Unseen:
    """Nobody watches."""

    def trial_started(self, record): ...

    def trial_progress(self, trial_id, progress): ...

    def trial_ended(self, record): ...


def history(home: Home, sweep_id: str, trial_id: str) -> list[tuple[int, float]]:
    client = open_client(home.mlflow_uri)
    parent = find_sweep(home.mlflow_uri, sweep_id)
    runs = client.search_runs([parent.experiment_id])
    (run,) = [run for run in runs if run.data.tags.get("pas.trial_id") == trial_id]
    return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")]


def progress(phase: str, epoch: int, loss: float) -> dict[str, object]:
    return {
        "step": 0, "phase": phase, "epoch": epoch, "num_epochs": 20,
        "loss": loss, "score": 0.5, "gain": 0.5, "metrics": [("accuracy", 0.5)], "macs_ratio": 1.0,
    }  # fmt: skip


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def refuse() -> None:
    raise ConnectionError("the store is away")


def test_epochs_that_a_dead_driver_could_not_deliver_are_delivered_by_the_next(home, monkeypatch):
    first = Driver(home)
    monkeypatch.setattr(first.tracker._queue, "_write_all", refuse)
    job = first.sweep.next_job()
    assert job is not None
    first.sweep.trial_started(job.trial_id)
    first.sweep.epoch_done(job.trial_id, progress("search", 1, 0.3))
    first.sweep.epoch_done(job.trial_id, progress("finetune", 1, 0.2))
    assert len(kept_epochs(job.folder)) == 2
    with pytest.raises(TrackingError, match="1 trials still queued; the store is away"):
        first.tracker.close("KILLED", timeout_s=1.0)

    second = Driver(home)
    again = second.sweep.next_job()
    assert again is not None
    assert again.trial_id == job.trial_id
    second.sweep.trial_started(job.trial_id)
    second.sweep.epoch_done(job.trial_id, progress("finetune", 2, 0.1))
    second.tracker.close("KILLED")
    assert history(home, first.sweep_id, job.trial_id) == [(1, 0.3), (11, 0.2), (12, 0.1)]
    assert len(kept_epochs(job.folder)) == 3

    write_result(job, failed(job, "lost"))
    third = Driver(home)
    third.tracker.close("FINISHED")
    assert kept_epochs(job.folder) == []  # all of it is there
    assert history(home, first.sweep_id, job.trial_id) == [(1, 0.3), (11, 0.2), (12, 0.1)]
