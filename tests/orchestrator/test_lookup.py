"""Which sweep a name means, to every command alike."""

from __future__ import annotations

import os
import time

from tracked_sweeps import tracker

from orchestrator.home import Home, write_json
from orchestrator.lookup import find_recorded_sweep


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
