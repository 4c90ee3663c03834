"""What the commands print of a finished sweep, beside each other."""

from __future__ import annotations

import csv
import dataclasses
import json

import pytest

from orchestrator.records import TrialRecord

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("command", ["compare", "pareto"])
def test_csv_has_what_json_has(finished, command):
    document = finished.json(command, "tiny")
    printed = finished.here(command, "tiny", "--csv")
    assert printed.returncode == 0, printed.stderr
    rows = list(csv.DictReader(printed.stdout.splitlines()))
    names = [field.name for field in dataclasses.fields(TrialRecord)]
    assert [name.replace("accuracy", "score") for name in rows[0]] == names
    expected = [*document["trials"], *document["controls"]]
    assert len(rows) == len(expected) > 0
    for row, record in zip(rows, expected, strict=True):
        for name, value in record.items():
            if value is None:
                assert row[name] == ""
            elif isinstance(value, dict):
                assert json.loads(row[name]) == value
            else:
                assert row[name] == str(value)


def test_two_formats_at_once_are_refused(finished):
    refused = finished.here("pareto", "tiny", "--csv", "--json")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert "--json and --csv are two formats" in refused.stderr


@pytest.mark.parametrize("command", ["compare", "pareto"])
def test_a_sweep_without_results_has_no_table(monkeypatch, capsys, command):
    from orchestrator import cli_results, lookup
    from orchestrator.tracking_reader import SweepInfo

    fields = {field.name: None for field in dataclasses.fields(SweepInfo)}
    info = SweepInfo(**{**fields, "sweep_id": "s-1", "resource": "macs", "metric": "accuracy"})
    monkeypatch.setattr(lookup, "load_sweep_records", lambda *_: (info, []))
    getattr(cli_results, command)("s-1")
    assert capsys.readouterr().out.startswith("no trial of s-1 has finished yet")
