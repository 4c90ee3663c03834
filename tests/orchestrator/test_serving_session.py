"""What is refused on a cluster that serves already; real serving is in test_serving_end_to_end."""

from __future__ import annotations

import pytest
import ray

from orchestrator import serving_session
from orchestrator.errors import UserError
from orchestrator.serving import ServingOptions


def test_a_cluster_that_serves_for_others_is_left_as_it_is(tmp_path, monkeypatch):
    left = []
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: left.append("ray"))
    monkeypatch.setattr(serving_session, "_serves_already", lambda: True)
    monkeypatch.setattr(serving_session, "_end", lambda **_: pytest.fail("ended the others' Serve"))
    session = serving_session.serve_on_ray(ServingOptions(address="auto"), tmp_path / "p", None)
    with pytest.raises(UserError, match="serves something already"), session:
        pass
    assert left == ["ray"]
