"""The command line, run in the test's own process."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator import cli


def run_here(
    arguments: Sequence[str], home: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``pas`` as its console script does; returns what a process would.

    This process has imported already what a new one takes ten seconds for.

    Args:
        arguments: of the command.
        home: home folder; ``None``: that of the environment.
    """
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        if home is not None:
            patch.setenv("PAS_HOME", str(home))
        patch.setenv("COLUMNS", "500")
        patch.setattr(sys, "argv", ["pas", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
    code = caught.value.code or 0
    assert isinstance(code, int)
    return subprocess.CompletedProcess(["pas", *arguments], code, out.getvalue(), err.getvalue())
