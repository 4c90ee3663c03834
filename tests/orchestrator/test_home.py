from __future__ import annotations

import pytest

from orchestrator.errors import UserError
from orchestrator.home import Home


def test_a_job_without_a_home_folder_is_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PAS_HOME", raising=False)
    assert Home.from_environment().root == tmp_path / ".pas"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UserError, match="PAS_HOME is not set in the environment"):
        Home.from_environment()
    monkeypatch.setenv("PAS_HOME", str(tmp_path))
    assert Home.from_environment().root == tmp_path
