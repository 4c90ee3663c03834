"""The head of a Ray cluster as a person starts it: with dashboard, job server and token."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import requests
from warm_python import start_ray, warm_python

from orchestrator.addresses import host_and_port


@dataclass(frozen=True)
class Head:
    """Addresses of a head, and the environment that lets a person in."""

    jobs: str
    gcs: str
    client: str
    token: Mapping[str, str]


@contextmanager
def ray_head(environment: Mapping[str, str], num_cpus: int = 2) -> Iterator[Head]:
    """Start a head on ports and in a folder of its own; ``environment`` is that of its jobs."""
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    head = Head(
        f"http://127.0.0.1:{ports['dashboard-port']}",
        f"127.0.0.1:{ports['port']}",
        f"ray://127.0.0.1:{ports['ray-client-server-port']}",
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)},
    )
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # short: Ray's sockets lie in it
    programs = Path(warm_python()).parent
    command = [
        *(*start_ray(), "--head", "--block", "--disable-usage-stats"),
        *(f"--temp-dir={folder}", f"--num-cpus={num_cpus}", "--node-ip-address=127.0.0.1"),
        *(f"--{name}={port}" for name, port in ports.items()),
    ]
    log = (folder / "start.log").open("w+")
    process = subprocess.Popen(
        command,
        env={
            **os.environ,
            "GRPC_ENABLE_FORK_SUPPORT": "0",  # else Ray Client's server dies when it forks
            **environment,
            **head.token,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        },
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        _wait_for(head, process, Path(log.name))
        yield head
    finally:
        end_head(process)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def end_head(process: subprocess.Popen[bytes]) -> None:
    """End ``ray start --block`` and all that it has started in its session."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(30)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _wait_for(head: Head, process: subprocess.Popen[bytes], log: Path) -> None:
    headers = {"Authorization": f"Bearer {head.token['RAY_AUTH_TOKEN']}"}
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError):
            if requests.get(f"{head.jobs}/api/jobs/", headers=headers, timeout=30).ok:
                socket.create_connection(host_and_port(head.client)).close()
                return
        time.sleep(0.2)
    raise AssertionError(f"Ray's head did not start:\n{log.read_text()}")
