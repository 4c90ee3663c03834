"""Which sweep a name means, to every command alike."""

from __future__ import annotations

import os
import time

import pytest
from tracked_sweeps import tracker

from orchestrator.errors import UserError
from orchestrator.home import Home, write_json
from orchestrator.lookup import find_recorded_sweep
from orchestrator.tracking_reader import UnknownSweepError


def test_a_name_means_the_sweep_that_was_run_here_last(tracking_uri, tmp_path, monkeypatch):
    monkeypatch.setenv("PAS_HOME", str(tmp_path))
    home = Home.from_environment()
    assert tracking_uri == home.mlflow_uri
    for age_s, sweep_id in ((0, "digits-1"), (60, "digits-2")):  # the first went on afterwards
        tracker(tracking_uri, sweep_id).close("FINISHED")
        path = home.sweep(sweep_id) / "sweep.json"
        write_json(path, {"config": {"name": "digits"}, "tracking_uri": tracking_uri})
        os.utime(path, (time.time() - age_s,) * 2)
    assert find_recorded_sweep("digits", None)[1].sweep_id == "digits-1"
    assert find_recorded_sweep("digits-2", None)[1].sweep_id == "digits-2"
    for sweep_id in ("digits-1", "digits-2"):
        (home.sweep(sweep_id) / "sweep.json").unlink()  # run from elsewhere
    assert find_recorded_sweep("digits", None)[1].sweep_id == "digits-2"


def test_a_store_that_the_environment_names_is_told(tracking_uri, tmp_path, monkeypatch):
    monkeypatch.setenv("PAS_HOME", str(tmp_path))
    tracker(tracking_uri, "digits-1").close("FINISHED")
    for named in (False, True):
        if named:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
        with pytest.raises(UnknownSweepError, match="there is no sweep 'other'") as caught:
            find_recorded_sweep("other", tracking_uri if named else None)
        assert ("MLFLOW_TRACKING_URI names" in str(caught.value)) == named
    gone = "http://127.0.0.1:1"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gone)
    with pytest.raises(UserError, match=r"MLFLOW_TRACKING_URI names\)$"):
        find_recorded_sweep("other", gone)
