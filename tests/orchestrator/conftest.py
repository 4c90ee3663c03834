"""Real sweeps on digits, by the command line."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_line import run_here
from ray_nodes import ray_nodes
from warm_python import warm_python

# Trials one after the other share a worker, which takes longer to start than they do to train.
SWEEP = """
name: tiny
data: {name: digits, validation: 0.25}
supernet: {name: repvgg_tiny, options: {width: 0.5}}
budget: {limits: [0.5, 0.25]}
strengths: [10]
trials_per_cell: 2
optimizer: {batch_size: 64}
pretrain: {epochs: 5}
search: {epochs: 3, batch_size: 64}
finetune: {epochs: 5, recalibration_batches: 2}
resources: {max_concurrent_trials: 1}
hyperparameters:
  learning_rate: {low: 0.03, high: 0.1, log: true}
"""


@dataclass
class Pas:
    """The command line on a home folder and a sweep file of its own.

    Called, it runs a command in a process, as a user does; ``here`` and ``json`` run it in this
    process, and sweeps on the Ray that all tests share, which takes half the time. Processes are
    those of ``python``, or forked from one that has loaded already what they need.
    """

    home: Path
    file: Path
    shared_ray: Callable[[], str]
    empty_database: Path
    python: str | None = None

    def command(self, *arguments: str) -> list[str]:
        return [self.python or warm_python(), "-m", "orchestrator", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PAS_HOME": str(self.home), "COLUMNS": "160"}

    def __call__(self, *arguments: str, timeout: float = 540) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=self.file.parent,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def here(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        starts_ray = arguments[0] in ("sweep", "extend") and "--dry-run" not in arguments
        if starts_ray and "--address" not in arguments:
            arguments += ("--address", self.shared_ray())
            self._migrate(arguments)
        with contextlib.chdir(self.file.parent):
            return run_here(arguments, self.home)

    def _migrate(self, arguments: tuple[str, ...]) -> None:
        """Begin with the tables that MLflow would take seconds to make."""
        store = self.home / "mlflow.db"
        if not store.exists() and not any("tracking.uri" in argument for argument in arguments):
            self.home.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.empty_database, store)

    def json(self, *arguments: str) -> Any:
        done = self.here(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start_until(self, words: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a command and return it, still running, once a line on stderr has these words."""
        started = subprocess.Popen(
            self.command(*arguments),
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert started.stderr is not None
        next(line for line in started.stderr if words in line)
        return started

    def start_until_output(self, words: str, *arguments: str) -> subprocess.Popen[str]:
        """As ``start_until``, once a line on stdout has these words."""
        started = subprocess.Popen(
            self.command(*arguments), env=self.environment, stdout=subprocess.PIPE, text=True
        )
        assert started.stdout is not None
        next(line for line in started.stdout if words in line)
        return started


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[Callable[[], str]]:
    """The address of a Ray cluster of one node, started when a test first asks for it."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def address() -> str:
            started: str = stack.enter_context(ray_nodes(os.cpu_count() or 2)).address
            return started

        yield address


@pytest.fixture(scope="session")
def make_pas(shared_ray, empty_database) -> Callable[[Path], Pas]:
    """Give a folder a command line of its own."""

    def make(folder: Path) -> Pas:
        file = folder / "tiny.yaml"
        file.write_text(SWEEP)
        return Pas(folder / "home", file, shared_ray, empty_database)

    return make


@pytest.fixture
def pas(tmp_path, make_pas) -> Pas:
    return make_pas(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, make_pas) -> Pas:
    """A sweep that has run to its end, undisturbed; to be read, not changed."""
    pas = make_pas(tmp_path_factory.mktemp("finished"))
    pas.json("sweep", str(pas.file))
    return pas


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """A migrated sqlite store, made once: its migrations take seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    from orchestrator.tracking_server import open_client

    open_client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def tracking_uri(empty_database, tmp_path) -> str:
    """An empty store of MLflow."""
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    return f"sqlite:///{tmp_path / 'mlflow.db'}"
