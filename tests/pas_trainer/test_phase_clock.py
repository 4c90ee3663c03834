from __future__ import annotations

import pytest

from pas_trainer import phase_clock
from pas_trainer.phase_clock import PhaseClock


@pytest.fixture
def at(monkeypatch):
    """Set the time."""
    now = [100.0]
    monkeypatch.setattr(phase_clock.time, "perf_counter", lambda: now[0])
    return lambda seconds: now.__setitem__(0, 100.0 + seconds)


def test_every_second_belongs_to_a_phase(at):
    clock = PhaseClock()
    at(2.0)  # getting ready
    clock.phase = "search"
    at(5.0)
    assert clock.lap() == {"search": 5.0}
    at(6.0)
    assert clock.lap() == {"search": 6.0}
    clock.phase = "finetune"
    at(10.0)
    assert clock.lap() == {"search": 6.0, "finetune": 4.0}


def test_earlier_starts_are_added(at):
    clock = PhaseClock("finetune")
    at(1.0)
    clock.resume({"search": 30.0, "finetune": 7.0})
    at(3.0)
    assert clock.lap() == {"search": 30.0, "finetune": 10.0}


def test_what_was_returned_does_not_change(at):
    clock = PhaseClock("search")
    at(1.0)
    first = clock.lap()
    at(2.0)
    clock.lap()
    assert first == {"search": 1.0}
