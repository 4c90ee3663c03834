"""Servers that are no Ray Client's; a real one is in test_jobs_end_to_end.py."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import ray
from ray import cloudpickle
from ray._private.utils import check_version_info
from ray.job_submission import JobStatus

from orchestrator import ray_client
from orchestrator.errors import UserError
from orchestrator.ray_client import ClientOnHead, _log_reader, _mismatch
from orchestrator.ray_jobs import JobServer


@pytest.fixture
def silent():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_is_silent_is_told(pas, silent, monkeypatch):
    monkeypatch.setenv("RAY_CLIENT_INITIAL_CONNECTION_TIMEOUT_S", "1")
    monkeypatch.setenv("RAY_CLIENT_MAX_CONNECTION_TIMEOUT_S", "1")
    done = pas("status", "--address", f"ray://{silent}", timeout=60)
    said = f"pas: the job server at ray://{silent} cannot be used: no Ray Client answers there\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_a_silent_server_does_not_ask_for_a_token(silent, monkeypatch):
    monkeypatch.setattr(ray_client, "_PROBE_S", 0.1)
    assert not ray_client._wants_token(silent)


@pytest.mark.parametrize(
    ("last", "told"),
    [
        (
            "RuntimeError: Starting Ray client server failed. See x.err",
            "GRPC_ENABLE_FORK_SUPPORT=0",
        ),
        ("RuntimeError: no such environment", "RuntimeError: no such environment"),
    ],
)
def test_a_head_that_cannot_serve_this_machine_is_told(silent, monkeypatch, last, told):
    def aborted(*_arguments, **_options):
        raise ConnectionAbortedError(f"Initialization failure from server:\nTraceback\n{last}\n")

    monkeypatch.setattr(ray, "init", aborted)
    with pytest.raises(UserError, match=f"cannot be used: .*{told}$|{told} in its environment$"):
        JobServer(f"ray://{silent}")


def test_other_versions_are_named_in_one_sentence():
    there = {"ray_version": "1.2.3", "python_version": "3.9.1"}
    with pytest.raises(RuntimeError) as caught:
        check_version_info(there, "Ray Client", python_version_match_level="minor")
    sentence = _mismatch(str(caught.value))
    assert sentence is not None
    assert sentence.startswith(
        f"the cluster has Ray 1.2.3 on Python 3.9.1, this machine Ray {ray.__version__} on Python "
    )
    assert "\n" not in sentence
    assert _mismatch("anything else") is None


def test_what_a_job_says_last_is_not_lost(monkeypatch):
    monkeypatch.setattr(ray_client, "_POLL_S", 0)
    logs = iter(["one ", "one ", "one two ", "one two three"])
    states = iter([JobStatus.PENDING, JobStatus.RUNNING, JobStatus.RUNNING, JobStatus.SUCCEEDED])
    client = ClientOnHead.__new__(ClientOnHead)
    client._address, client._headers, client._log_from = "http://nowhere.invalid", {}, None
    client._ask = lambda _task, start, _url, **_how: next(logs)[start:]
    client.get_job_info = lambda _job_id: SimpleNamespace(status=next(states))

    async def told():
        return [piece async for piece in client.tail_job_logs("pas-a-1")]

    assert asyncio.run(told()) == ["one ", "two ", "three"]


def test_the_cluster_needs_none_of_our_code():
    program = """
import pickle, sys
sys.modules["orchestrator"] = None
log_from = pickle.load(sys.stdin.buffer)
try:
    log_from(0, "http://127.0.0.1:1/", headers={}, timeout=1)
except OSError as error:
    print(type(error).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=cloudpickle.dumps(_log_reader()),
        capture_output=True,
        check=False,
    )
    assert done.stdout == b"ConnectionError\n", done.stderr.decode()
