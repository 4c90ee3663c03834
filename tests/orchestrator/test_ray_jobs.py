"""Servers that are no job server; a real one is in test_jobs_end_to_end.py."""

from __future__ import annotations

import os
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from orchestrator import ray_jobs
from orchestrator.errors import UserError
from orchestrator.ray_jobs import JobServer


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
