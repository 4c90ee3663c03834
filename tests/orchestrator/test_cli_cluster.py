from __future__ import annotations

import json

import pytest

from orchestrator.cli_cluster import check_options, split_document
from orchestrator.errors import UserError


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_the_document_is_found_in_the_log_however_it_is_cut(size):
    document = {"a": {"b": [1, {}]}, "text": "}\n{"}
    log = f"said {{\n{json.dumps(document, indent=1)}\nsaid }}\nno end"
    pieces = [log[i : i + size] for i in range(0, len(log), size)]
    lines = list(split_document(iter(pieces)))
    assert json.loads("".join(text for is_result, text in lines if is_result)) == document
    assert "".join(text for is_result, text in lines if not is_result) == "said {\nsaid }\nno end"


@pytest.mark.parametrize(
    ("address", "options", "part"),
    [
        (None, {"detach": True}, "--detach is for clusters"),
        (None, {"code": True}, "--code is for clusters"),
        ("http://x:1", {"dry_run": True}, "--dry-run is not submitted"),
        ("auto", {"dry_run": True, "detach": True}, "--dry-run is not submitted"),
        ("ray://x:1", {"dry_run": True}, "--dry-run is not submitted"),
    ],
)
def test_options_that_do_not_go_together_are_refused(address, options, part):
    with pytest.raises(UserError, match=part):
        check_options(address, **{"detach": False, "dry_run": False, "code": False, **options})


def test_the_driver_runs_here_unless_told_otherwise():
    here = {"detach": False, "dry_run": False, "code": False}
    assert not check_options(None, **here)
    assert not check_options("auto", **{**here, "code": True})
    assert check_options("auto", **{**here, "detach": True})
