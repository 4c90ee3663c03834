"""Real sweeps on digits, run as a user runs them: ``python -m orchestrator`` in a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app

SWEEP = """
name: tiny
data: {name: digits, validation: 0.25}
supernet: {name: repvgg_tiny, options: {width: 0.5}}
budget: {limits: [0.5, 0.25]}
strengths: [10]
trials_per_cell: 2
optimizer: {batch_size: 64}
pretrain: {epochs: 12}
search: {epochs: 5}
finetune: {epochs: 10, recalibration_batches: 10}
hyperparameters:
  learning_rate: {low: 0.03, high: 0.1, log: true}
"""


READING = ("status", "compare", "pareto", "promote")
"""Commands that train nothing."""


@dataclass
class Pas:
    """The command line on a home folder and a sweep file of its own."""

    home: Path
    file: Path

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "orchestrator", *arguments]

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

    def json(self, *arguments: str) -> Any:
        if arguments[0] in READING:
            return self._json_here(*arguments)
        done = self(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def _json_here(self, *arguments: str) -> Any:
        """In this process, which has imported already what a new one takes seconds for."""
        environment = {"PAS_HOME": str(self.home)}
        done = CliRunner().invoke(app, [*arguments, "--json"], env=environment)
        assert done.exit_code == 0, (done.stderr, done.exception)
        return json.loads(done.stdout)


def new_pas(folder: Path) -> Pas:
    file = folder / "tiny.yaml"
    file.write_text(SWEEP)
    return Pas(folder / "home", file)


@pytest.fixture(scope="session")
def make_pas():
    """Give a folder a command line of its own."""
    return new_pas


@pytest.fixture
def pas(tmp_path) -> Pas:
    return new_pas(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Pas:
    """A sweep that has run to its end, undisturbed; to be read, not changed."""
    pas = new_pas(tmp_path_factory.mktemp("finished"))
    done = pas("sweep", str(pas.file))
    assert done.returncode == 0, done.stderr
    return pas
