"""Servers that are no job server; a real one is in test_jobs_end_to_end.py."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus

from orchestrator import ray_jobs
from orchestrator.errors import UserError
from orchestrator.ray_jobs import JobServer
from orchestrator.submitted import metadata_of


@pytest.fixture
def other_server():
    """A web server that knows nothing of Ray."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_another_server_is_told(other_server, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "nowhere.invalid:1")  # is not what was asked for
    with pytest.raises(UserError, match=f"the job server at {other_server} cannot be used: .*404"):
        JobServer(other_server)
    assert os.environ["RAY_ADDRESS"] == "nowhere.invalid:1"


def test_a_server_that_is_silent_is_told(monkeypatch):
    monkeypatch.setattr(ray_jobs, "_TIMEOUT_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(UserError, match="did not answer within"):
            JobServer(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_what_jobs_need_is_named_where_it_is_missing(other_server, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.job_submission", None)
    with pytest.raises(UserError, match=r"ray\[default\].*pas-orchestrator\[cluster\]"):
        JobServer(other_server)


class StandIn:
    """Ray's client, whose connection is lost after every piece."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces
        self.asked = 0

    async def tail_job_logs(self, _job_id):
        self.asked += 1
        yield "".join(self.pieces[: self.asked])
        raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_info(self, _job_id):
        status = JobStatus.RUNNING if self.asked < len(self.pieces) else JobStatus.SUCCEEDED
        return SimpleNamespace(
            submission_id="pas-a-1",
            metadata=metadata_of("a", "a"),
            status=status,
            driver_exit_code=None,
            start_time=1,
            end_time=None,
            message=None,
        )


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(ray_jobs, "_POLL_S", 0.01)
    server = JobServer.__new__(JobServer)
    server._address = "http://nowhere.invalid"
    return server


def test_a_log_goes_on_where_it_was_when_the_connection_was_lost(server):
    server._client = StandIn("one ", "two ", "three")
    answers = itertools.chain([None, ConnectionError("away")], itertools.repeat(None))
    real = server._client.get_job_info

    def sometimes(job_id):
        if error := next(answers):
            raise error
        return real(job_id)

    server._client.get_job_info = sometimes
    assert list(server.follow("pas-a-1")) == ["one ", "two ", "three"]


def test_what_a_job_said_while_the_connection_was_lost_is_told(server):
    """It ends meanwhile, with more than one piece that nobody has read."""
    server._client = StandIn("one ", "two ", "three")
    info = server._client.get_job_info

    def ended_after_the_first(job_id):
        if server._client.asked:
            server._client.asked = 3
        return info(job_id)

    server._client.get_job_info = ended_after_the_first
    assert "".join(server.follow("pas-a-1")) == "one two three"


def test_jobs_are_found_by_id_and_by_name_alike(server):
    """One that was submitted by a name alone, its id being unknown, hides none of the others."""
    jobs = [("digits", "digits"), ("digits-1a", "digits"), ("other-2b", "other")]
    infos = [
        SimpleNamespace(
            submission_id=f"pas-{sweep_id}-1",
            metadata=metadata_of(sweep_id, name),
            status=JobStatus.RUNNING,
            driver_exit_code=None,
            start_time=start,
            end_time=None,
            message=None,
        )
        for start, (sweep_id, name) in enumerate(jobs, 1)
    ]
    server._client = SimpleNamespace(list_jobs=lambda: infos)
    assert [job.sweep_id for job in server.jobs("digits")] == ["digits-1a", "digits"]
    assert server.latest("digits").job_id == "pas-digits-1a-1"
    assert server.latest("digits-1a").job_id == "pas-digits-1a-1"


def test_a_server_that_stays_away_is_told(server, monkeypatch):
    monkeypatch.setattr(ray_jobs, "_AWAY_S", 0.05)
    server._client = StandIn("one")
    server._client.get_job_info = lambda _job_id: (_ for _ in ()).throw(OSError("away"))
    with pytest.raises(UserError, match="cannot be used: away"):
        list(server.follow("pas-a-1"))


def test_ctrl_c_ends_the_following():
    async def silent(_job_id):
        yield "first"
        await asyncio.sleep(600)

    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)

    pieces = ray_jobs._tail(SimpleNamespace(tail_job_logs=silent), "pas-a-1")
    assert next(pieces) == "first"
    threading.Timer(0.2, interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        next(pieces)
