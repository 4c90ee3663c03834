from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.home import Home, write_text


def test_a_job_without_a_home_folder_is_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PAS_HOME", raising=False)
    assert Home.from_environment().root == tmp_path / ".pas"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UserError, match="PAS_HOME is not set in the environment"):
        Home.from_environment()
    monkeypatch.setenv("PAS_HOME", str(tmp_path))
    assert Home.from_environment().root == tmp_path


def keep_sweep(home: Home, sweep_id: str, content: str | None = None) -> Path:
    path = home.sweep(sweep_id) / "sweep.json"
    document = {"config": {"name": sweep_id.rpartition("-")[0]}, "tracking_uri": "x"}
    write_text(path, json.dumps(document) if content is None else content)
    return path


def test_damaged_records_of_other_sweeps_are_in_nobodys_way(tmp_path):
    home = Home(tmp_path)
    keep_sweep(home, "other-1", '{"config"')
    assert home.record_of("digits") is None
    kept = keep_sweep(home, "digits-1")
    keep_sweep(home, "digits-2", "")
    assert home.record_of("digits") == home.record_of("digits-1") == kept
    assert home.tracking_uri_of("digits") == "x"


@pytest.mark.parametrize("sweep", ["digits", "digits-2"])
@pytest.mark.parametrize("content", ["", '{"config"', "[]", '{"config": 1}', '{"tracking_uri": 1}'])
def test_a_damaged_record_of_the_sweep_that_is_meant_is_named(tmp_path, sweep, content):
    home = Home(tmp_path)
    path = keep_sweep(home, "digits-2", content)
    keep_sweep(home, "other-1")
    with pytest.raises(UserError) as error:
        home.tracking_uri_of(sweep)
    assert str(error.value) == (
        f"{path} is damaged: it does not hold the settings of a sweep; restore it, or remove it "
        "and run the sweep's file again, which writes a new one"
    )
