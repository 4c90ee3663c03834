"""Servers that are not there, go away, or have a store of another version."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import time

import pytest
from tracked_sweeps import (
    SWEEP,
    assert_clean,
    ended,
    load_records,
    run_trial,
    running,
    tracker,
    wait_for,
)
from tracking_servers import TrackingServer

from orchestrator.tracking import TrackingError
from orchestrator.tracking_server import check_server, mask_uri, open_client


def test_a_server_that_is_not_there(monkeypatch):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(TrackingError, match=r"http://\*\*\*@.* cannot be reached") as caught:
            check_server(f"http://user:secret@{address}")
        held.listen()  # takes connections, answers nothing
        monkeypatch.setattr("orchestrator.tracking_server._ANSWER_S", 0.3)
        with pytest.raises(TrackingError, match="did not answer within"):
            check_server(f"http://{address}")
    assert "secret" not in str(caught.value)
    assert mask_uri("postgresql://u:p@h/db") == "postgresql://***@h/db"
    check_server("sqlite:///nowhere.db")


@pytest.mark.slow
def test_a_server_that_goes_away_loses_nothing(tracking_uri, tmp_path):
    server = TrackingServer(tmp_path).start()
    http = server.url
    try:
        sweep = tracker(http)
        done = [run_trial(sweep, running(0))]
        sweep.trial_started(running(1))
        wait_for(lambda: len(load_records(http, SWEEP)) == 2)
        server.kill()
        begin = time.monotonic()
        for epoch in range(3):
            sweep.log_epoch(running(1).trial_id, {"loss": 0.5}, epoch)
        done += [ended(running(1))]
        sweep.trial_finished(done[1], {"architecture.json": "{}"})
        done += [run_trial(sweep, running(n)) for n in (2, 3)]
        sweep.update_front(done, "macs", 23_000_000_000)
        assert time.monotonic() - begin < 0.5  # training does not wait
        time.sleep(1.5)
        server.start()
        sweep.close("FINISHED")
        _, runs = assert_clean(http, [record.trial_id for record in done])
        assert runs[done[1].trial_id].data.metrics["loss"] == 0.5
        assert {r.status for r in load_records(http, SWEEP)} == {"FINISHED"}
        files = {f.path for f in open_client(http).list_artifacts(sweep.run_id)}
        assert {"front.html", "front.json", "sweep.yaml"} <= files

        lost = tracker(http)
        lost.trial_started(running(9))
        server.kill()
        begin = time.monotonic()
        with pytest.raises(TrackingError, match="did not take everything within 2 s"):
            lost.close("FINISHED", timeout_s=2)
        assert time.monotonic() - begin < 4
    finally:
        server.kill()


def test_a_store_of_another_mlflow_is_named_with_the_way_out(tracking_uri, tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("update alembic_version set version_num = '6953534de441'")
    with pytest.raises(TrackingError, match=f"out-of-date .* 'mlflow db upgrade {tracking_uri}'"):
        open_client(tracking_uri)
