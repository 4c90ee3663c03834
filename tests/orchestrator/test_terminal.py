from __future__ import annotations

import json

import pytest

from orchestrator.terminal import show


def not_json(constant: str) -> float:
    raise AssertionError(f"{constant} is not JSON")


def test_what_is_no_number_is_null_in_json(capsys):
    show({"trials": [{"accuracy": 0.5, "ü": float("nan"), "kid": float("inf")}]}, True, [])
    document = json.loads(capsys.readouterr().out, parse_constant=not_json)
    assert document == {"trials": [{"accuracy": 0.5, "ü": None, "kid": None}]}


@pytest.mark.parametrize("name", ["/data/[set] one", "/data/" + "long" * 60])
def test_what_names_a_folder_is_printed_as_it_is(capsys, name):
    show(None, False, [name])
    assert capsys.readouterr().out == name + "\n"
