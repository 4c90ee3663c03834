"""``pas ui``: MLflow's own server on the home folder's store, on loopback only."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import requests

from orchestrator.addresses import check_free
from orchestrator.driver import terminate_as_interrupt
from orchestrator.errors import UserError
from orchestrator.home import Home
from orchestrator.tracking_reader import list_sweeps
from orchestrator.tracking_views import page_link

_STARTUP_SECONDS = 120
_MOST_SWEEPS = 5


def serve_ui(home: Home, port: int, ready: Callable[[str], None]) -> None:
    """Run the server until it is interrupted (Ctrl-C, or SIGTERM).

    Args:
        home: whose store is shown.
        port: on which it listens.
        ready: called with its address once it answers.

    Raises:
        UserError: there is no store yet, the port is taken, or the server does not start.
    """
    if not (home.root / "mlflow.db").exists():
        raise UserError(f"no sweep has run in home folder {home.root}; set PAS_HOME to its home")
    check_free("127.0.0.1", port)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
            *("--port", str(port), "--workers", "1"),
            *("--backend-store-uri", home.mlflow_uri),
            *("--default-artifact-root", home.artifacts.as_uri()),
        ],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        with terminate_as_interrupt():
            _wait_until_healthy(process, url)
            ready(url)
            process.wait()
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()


def latest_pages(home: Home, url: str) -> dict[str, str]:
    """Return sweep id -> address of its page in the UI at ``url``, the latest sweep first.

    MLflow's own first page leads elsewhere: to what agents have traced.
    """
    sweeps = list_sweeps(home.mlflow_uri)[:_MOST_SWEEPS]
    return {s.sweep_id: f"{url}/{page_link(s.experiment_id, f'runs/{s.run_id}')}" for s in sweeps}


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + _STARTUP_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with suppress(requests.RequestException):
            if requests.get(f"{url}/health", timeout=1).ok:
                return
        time.sleep(0.2)
    raise UserError(f"the MLflow server at {url} did not start; try 'mlflow server' by hand")
