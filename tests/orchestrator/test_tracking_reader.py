"""Sweeps that are in a store are read back as they were written."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter

import pytest
from tracked_sweeps import (
    SWEEP,
    assert_clean,
    ended,
    load_records,
    run_ids,
    run_trial,
    running,
    tracker,
)

from orchestrator import tracking_requests
from orchestrator.records import TrialRecord
from orchestrator.tracking_reader import UnknownSweepError, find_sweep, list_sweeps


def test_records_come_back_as_they_went_in(tracking_uri):
    sweep = tracker(tracking_uri)
    done = [run_trial(sweep, running(n)) for n in range(3)]
    pruned = ended(running(3), "PRUNED", score=0.2, widths=None)
    failed = ended(running(4, strength=1.0), "FAILED")
    for record in (pruned, failed):
        sweep.trial_started(dataclasses.replace(running(record.number), trial_id=record.trial_id))
        sweep.trial_finished(record, {})
    sweep.update_front([*done, pruned, failed], "macs", 23_000_000_000)
    sweep.close("FINISHED")
    sweep.close("FINISHED")

    loaded = load_records(tracking_uri, SWEEP)
    written = [failed, *done, pruned]  # by budget, strength, number
    plain = [dataclasses.replace(r, run_id=None, on_front=False) for r in loaded]
    assert plain == written
    assert [r.number for r in loaded if r.on_front] == [0, 1, 2]

    client, runs = assert_clean(tracking_uri, [r.trial_id for r in written])
    assert all(r.run_id == runs[r.trial_id].info.run_id for r in loaded)
    assert runs[failed.trial_id].info.status == "FAILED"
    assert runs[failed.trial_id].data.tags["pas.error"] == "out of memory"
    assert runs[pruned.trial_id].info.status == "FINISHED"
    first = runs[done[0].trial_id]
    assert first.info.run_name == "0.5 x MACs, strength 10 #0: 90.0 %"
    assert first.data.metrics["accuracy"] == done[0].score
    assert {f.path for f in client.list_artifacts(first.info.run_id)} == {
        "architecture.json",
        "widths.json",
    }


def test_controls_come_back_as_controls(tracking_uri):
    sweep = tracker(tracking_uri)
    trial = run_trial(sweep, running(0))
    begun = TrialRecord(
        trial_id="control-uniform-b0.25",
        sweep_id=SWEEP,
        status="RUNNING",
        budget=0.25,
        strength=0.0,
        number=0,
        control="uniform",
    )
    sweep.trial_started(begun)
    control = ended(begun, score=0.999, training_macs=3 * 10**12)
    sweep.trial_finished(control, {})
    sweep.update_front([trial, control], "macs", 23_000_000_000)
    sweep.close("FINISHED")
    first, last = load_records(tracking_uri, SWEEP)
    assert (first.on_front, last.on_front) == (True, False)
    assert dataclasses.replace(last, run_id=None) == control
    client, runs = assert_clean(tracking_uri, [trial.trial_id, control.trial_id])
    run = runs[control.trial_id]
    assert run.info.run_name == "control uniform, 0.25 x MACs: 99.9 %"
    assert run.data.tags["pas.control"] == "uniform"
    assert run.data.metrics["training_macs"] == 3 * 10**12
    assert "pas.control" not in runs[trial.trial_id].data.tags
    metrics = client.get_run(sweep.run_id).data.metrics
    assert "best_accuracy/b0.25" not in metrics
    assert metrics["best_accuracy/b0.5"] == trial.score


def test_scores_of_another_metric_are_read_back(tracking_uri):
    """Of this one less is better; further figures come back as well."""
    lower = {"metric": "swd", "higher_is_better": False}
    sweep = tracker(tracking_uri, **lower)
    records = []
    for number, score in enumerate((0.5, 0.25)):
        begun = dataclasses.replace(running(number), **lower)
        sweep.trial_started(begun)
        sweep.log_epoch(begun.trial_id, {"loss": 1.0, "epoch_swd": score, "epoch_kid": 2.0}, 0)
        records.append(ended(begun, score=score, metrics={"kid": 1.5, "test_kid": 1.75}))
        sweep.trial_finished(records[-1], {"preview_search.jpg": b"\xff\xd8"})
    sweep.log_supernet(0.125, 0.25)
    sweep.update_front(records, "macs", 2.5e10)
    sweep.close("FINISHED")
    info = find_sweep(tracking_uri, SWEEP)
    assert (info.metric, info.higher_is_better) == ("swd", False)
    assert (info.supernet_score, info.supernet_test_score) == (0.125, 0.25)
    found = load_records(tracking_uri, SWEEP)
    assert [dataclasses.replace(r, run_id=None, on_front=False) for r in found] == records
    client, runs = assert_clean(tracking_uri, [r.trial_id for r in records])
    assert client.get_run(info.run_id).data.metrics["best_swd/b0.5"] == 0.25
    assert "accuracy" not in runs[records[0].trial_id].data.metrics
    names = {item.path for item in client.list_artifacts(found[0].run_id)}
    assert "preview_search.jpg" in names


def test_more_trials_than_one_page(tracking_uri, monkeypatch):
    monkeypatch.setattr(tracking_requests, "PAGE_SIZE", 7)
    sweep = tracker(tracking_uri)
    for number in range(30):
        record = running(number)
        sweep.trial_started(record)
        if number % 2:
            sweep.trial_finished(ended(record, widths=None), {})
    sweep.close("KILLED")
    assert Counter(r.status for r in load_records(tracking_uri, SWEEP)) == {
        "FINISHED": 15,
        "KILLED": 15,
    }
    before = run_ids(tracking_uri)
    again = tracker(tracking_uri)
    for number in range(0, 30, 2):
        again.trial_started(running(number))
    again.close("FINISHED")
    assert run_ids(tracking_uri) == before


def test_finding_sweeps(tracking_uri):
    assert list_sweeps(tracking_uri) == []
    with pytest.raises(UnknownSweepError, match="no sweep has been run"):
        find_sweep(tracking_uri, "digits")
    for sweep_id in ("digits-a", "digits-b"):
        tracker(tracking_uri, sweep_id=sweep_id).close("FINISHED")
        time.sleep(0.01)
    assert find_sweep(tracking_uri, "digits").sweep_id == "digits-b"
    assert find_sweep(tracking_uri, "digits-a").sweep_id == "digits-a"
    with pytest.raises(UnknownSweepError, match="did you mean digits"):
        find_sweep(tracking_uri, "digit")


def test_looking_creates_no_database(tmp_path):
    assert list_sweeps(f"sqlite:///{tmp_path}/none.db") == []
    assert not list(tmp_path.iterdir())


def test_quotes_in_an_id_are_refused(tracking_uri):
    with pytest.raises(ValueError, match="quotes"):
        tracker(tracking_uri, sweep_id="a' or '1")
