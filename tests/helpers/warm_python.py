"""A Python that has loaded what takes long: what runs is forked from it, and starts at once.

Imports take a worker of Ray's seven seconds of a core, which is more than most tests train.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CLIENT = """
import array, json, os, signal, socket, sys
given = sys.argv[1:]
is_worker = any(one.endswith("/default_worker.py") for one in given)
if not is_worker and given[0] != "-c" and given[:2] != ["-m", "orchestrator"]:
    os.execv({python!r}, [{python!r}, *given])
warm = socket.socket(socket.AF_UNIX)
warm.connect({address!r})
wanted = json.dumps([given, dict(os.environ), os.getcwd()]).encode()
files = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))
warm.sendmsg([len(wanted).to_bytes(4, "big")], [files])
warm.sendall(wanted)
process = int.from_bytes(warm.recv(4), "big")
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(process, number))
status = int.from_bytes(warm.recv(4), "big", signed=True)
if status < 0:
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""
"""Stands for a process: it has its signals and its exit status, and takes it along when killed."""


@functools.cache
def warm_python() -> str:
    """Return a program that runs ``-m orchestrator``, ``-c`` and Ray's workers as Python would.

    Its server ends with this process. Ray is not loaded: it reads its settings as it is imported.
    """
    folder = Path(tempfile.mkdtemp(prefix="warm"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    address = str(folder / "socket")
    code = folder / "client.py"
    code.write_text(CLIENT.format(python=sys.executable, address=address))
    client = _program(folder / "python", f'"{sys.executable}" -IS {code}')
    command = [sys.executable, __file__, address, str(client)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    return str(client)


@contextlib.contextmanager
def workers_forked() -> Iterator[None]:
    """Let workers of the Ray that is started meanwhile be forked."""
    usual = sys.executable
    sys.executable = warm_python()
    try:
        yield
    finally:
        sys.executable = usual


def start_ray() -> list[str | Path]:
    """Return how ``ray start`` begins whose workers, and jobs by ``pas``, are forked."""
    warm = Path(warm_python())
    _program(warm.with_name("pas"), f"{warm} -m orchestrator")
    return [sys.executable, "-c", _START_RAY, warm, "start"]


def _program(path: Path, command: str) -> Path:
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o700)
    return path


_START_RAY = "import ray.scripts.scripts as s, sys; sys.executable = sys.argv.pop(1); s.main()"


def _serve(address: str) -> Callable[[], None]:
    """Fork a process for each that asks; return, in each, what it is to run."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    print("ready", flush=True)
    parent = os.getppid()
    started: dict[int, socket.socket] = {}
    while os.getppid() == parent:
        ready, _, _ = select.select([listening, *started.values()], [], [], 0.1)
        for process, asked in started.items():
            if asked in ready and _is_gone(asked):
                os.kill(process, signal.SIGKILL)
        if listening in ready:
            asked, _ = listening.accept()
            with contextlib.suppress(ConnectionError):  # killed before it had asked
                files, wanted = _read(asked)
                process = os.fork()
                if not process:
                    for held in (listening, asked, *started.values()):
                        held.close()
                    return functools.partial(_run, files, *wanted)
                started[process] = asked
                for file in files:
                    os.close(file)
                asked.sendall(process.to_bytes(4, "big"))
        while started and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with contextlib.suppress(OSError), started.pop(ended[0]) as asked:
                asked.sendall(os.waitstatus_to_exitcode(ended[1]).to_bytes(4, "big", signed=True))
    os._exit(0)


def _is_gone(asked: socket.socket) -> bool:
    """Whether what stands for a process, which sends nothing more, was killed."""
    try:
        return not asked.recv(1)
    except ConnectionError:  # before it had read the number of the process
        return True


def _read(asked: socket.socket) -> tuple[list[int], list[Any]]:
    length, files, _, _ = socket.recv_fds(asked, 4, 3)
    wanted = b""
    while len(wanted) < int.from_bytes(length, "big"):
        if not (piece := asked.recv(2**16)):
            raise ConnectionError
        wanted += piece
    return list(files), json.loads(wanted)


def _run(files: list[int], arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Be the process that was asked for, in a session of its own: others are killed as a group."""
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if arguments[0] not in ("-c", "-m"):
        if Path(arguments[0]).name == "setup_worker.py":
            _set_up_here()
        _run_file(arguments)
        return
    _find_modules(Path(folder))
    sys.executable = sys.argv[2]  # its own Ray's workers are forked, too
    sys.argv = [arguments[0], *arguments[2:]]
    if arguments[0] == "-c":
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102
    else:
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)


def _run_file(arguments: list[str]) -> None:
    _find_modules(Path(arguments[0]).parent)
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


def _find_modules(first: Path) -> None:
    """Look for modules where a process of its own would."""
    added = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [str(first), *added, *sys.path[1:]]


def _set_up_here() -> None:
    """Let what sets up a worker of Ray's run it in this process, not in a shell."""
    from ray._private.runtime_env.context import RuntimeEnvContext
    from ray._private.utils import update_envs

    in_a_shell = RuntimeEnvContext.exec_worker

    def exec_worker(context: Any, worker: list[str], language: Any) -> None:
        if context.command_prefix:
            in_a_shell(context, worker, language)
        update_envs(context.env_vars)
        _run_file(worker)

    RuntimeEnvContext.exec_worker = exec_worker


if __name__ == "__main__":
    import pandas  # noqa: F401
    import pyarrow.fs  # noqa: F401
    import torch._dynamo.config  # noqa: F401

    import orchestrator.worker  # noqa: F401

    assert "ray" not in sys.modules
    _serve(sys.argv[1])()
