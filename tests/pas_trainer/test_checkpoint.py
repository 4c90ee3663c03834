from __future__ import annotations

import contextlib

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pas_trainer import DataError
from pas_trainer.checkpoint import Checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    checkpoint = Checkpoint(tmp_path, "trial")
    checkpoint.save(epoch=3, model={"weight": torch.arange(1000.0)})
    return checkpoint


def test_what_was_saved_is_read_back(checkpoint, tmp_path):
    state = checkpoint.load()
    assert (state["epoch"], state["identity"]) == (3, "trial")
    assert torch.equal(state["model"]["weight"], torch.arange(1000.0))
    assert Checkpoint(tmp_path, "another").load() is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_a_damaged_file_is_refused_or_read_as_it_was(checkpoint, tmp_path, place, bit, cut):
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[int(place * len(whole))] ^= 1 << bit
    path.write_bytes(whole[: int(place * len(whole))] if cut else damaged)
    with contextlib.suppress(DataError):
        state = checkpoint.load()
        assert torch.equal(state["model"]["weight"], torch.arange(1000.0))
    path.write_bytes(whole)
    assert torch.equal(checkpoint.load()["model"]["weight"], torch.arange(1000.0))


def test_a_changed_number_is_refused_with_the_way_out(checkpoint, tmp_path):
    path = tmp_path / "checkpoint.pt"
    number = torch.tensor([500.0]).numpy().tobytes()
    damaged = path.read_bytes().replace(number, number[::-1])
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"checkpoint\.pt cannot be read .* remove it to start"):
        checkpoint.load()
