"""Slots and who holds them, on a clock of the test's own."""

from __future__ import annotations

import random

import pytest

from orchestrator.errors import UserError
from orchestrator.sections import PriceConfig
from orchestrator.slots import SlotMeter, Usage, keep_usage, kept_usage


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def meter_of(clock: Clock, before: Usage | None = None, slots: int = 2) -> SlotMeter:
    meter = SlotMeter(before or Usage(), cpus=3, gpus=0.5, now=clock)
    clock.now += 1000  # getting ready does not count
    meter.set_slots(slots)
    return meter


def test_slots_count_from_the_first_trial_to_the_end_of_the_last(clock):
    meter = meter_of(clock)
    assert meter.usage() == Usage()
    meter.started("a")
    clock.now += 10
    meter.started("b")
    clock.now += 20
    meter.ended("a")
    clock.now += 5
    meter.ended("b")
    clock.now += 500  # nothing runs any more
    held = 30 + 25
    assert meter.usage() == Usage(
        slot_seconds=2 * 35, held_seconds=held, cpu_seconds=3 * held, gpu_seconds=held / 2
    )
    meter.started("c")  # there was work after all: the gap was idle
    clock.now += 1
    assert meter.usage().slot_seconds == 2 * 536


def test_a_lost_worker_costs_the_time_since_the_last_report(clock):
    meter = meter_of(clock)
    meter.started("a")
    clock.now += 10
    meter.reported("a")
    clock.now += 4
    meter.ended("a", lost=True)
    meter.started("a")
    clock.now += 6
    meter.ended("a")
    usage = meter.usage()
    assert (usage.held_seconds, usage.lost_seconds) == (20, 4)
    meter.ended("a")  # twice is once
    meter.reported("a")
    assert meter.usage() == usage


def test_a_start_whose_end_was_not_seen_ends_the_one_before(clock):
    meter = meter_of(clock)
    meter.started("a")
    clock.now += 7
    meter.started("a")
    clock.now += 1
    meter.ended("a")
    usage = meter.usage()
    assert (usage.held_seconds, usage.lost_seconds, usage.slot_seconds) == (8, 7, 16)


def test_what_is_kept_is_true_should_the_driver_die_and_the_next_goes_on(clock, tmp_path):
    path = tmp_path / "usage.json"
    assert kept_usage(path) == Usage()
    first = meter_of(clock, slots=1)
    first.started("a")
    clock.now += 10
    first.reported("a")
    clock.now += 3
    keep_usage(path, first.usage())
    second = meter_of(clock, kept_usage(path), slots=1)
    second.started("a")
    clock.now += 7
    second.ended("a")
    usage = second.usage()
    assert (usage.slot_seconds, usage.held_seconds, usage.lost_seconds) == (20, 20, 3)
    assert usage.totals(None)["utilization"] == 1


@pytest.mark.parametrize("content", ["", "[]", '{"held_seconds": 1', '{"hours": 1}'])
def test_a_damaged_file_is_told_with_the_way_out(tmp_path, content):
    path = tmp_path / "usage.json"
    path.write_text(content)
    with pytest.raises(UserError, match=rf"{path} is damaged.*remove it"):
        kept_usage(path)


def test_slots_may_come_and_go(clock):
    meter = meter_of(clock, slots=1)
    meter.started("a")
    clock.now += 2
    meter.set_slots(4)
    clock.now += 3
    meter.set_slots(2)
    for trial in "bcd":
        meter.started(trial)  # more than was known of: the cluster has grown
    clock.now += 5
    usage = meter.usage()
    assert usage.slot_seconds == 1 * 2 + 4 * 3 + 4 * 5
    assert usage.held_seconds == 10 + 3 * 5


def test_random_sweeps_against_a_count_second_by_second(clock):
    draw = random.Random(5)
    meter = meter_of(clock, slots=3)
    running: dict[str, int] = {}
    slot_seconds = held = lost = 0
    meter.started("first")
    running["first"] = 0
    for second in range(500):
        for trial in list(running):
            match draw.random():
                case x if x < 0.1:
                    is_lost = draw.random() < 0.5
                    meter.ended(trial, lost=is_lost)
                    lost += running.pop(trial) * is_lost
                case x if x < 0.3:
                    meter.reported(trial)
                    running[trial] = 0
        while len(running) < 3 and draw.random() < 0.5:
            meter.started(f"t{second}-{len(running)}")
            running[f"t{second}-{len(running)}"] = 0
        slot_seconds, held = slot_seconds + 3, held + len(running)
        running = {trial: since + 1 for trial, since in running.items()}
        clock.now += 1
    meter.started("last")  # so that a gap at the end counts
    meter.ended("last")
    usage = meter.usage()
    assert usage.slot_seconds == slot_seconds
    assert usage.held_seconds == held
    assert usage.lost_seconds == lost + sum(running.values())


def test_the_supernets_training_counts_but_holds_no_slot(clock):
    meter = meter_of(clock)
    meter.pretrained(100, cpus=8, gpus=1)
    totals = meter.usage().totals(PriceConfig(cpu_hour=3.6, gpu_hour=36))
    assert totals == {
        "cpu_seconds": 800,
        "gpu_seconds": 100,
        "pretrain_seconds": 100,
        "lost_seconds": 0,
        "price": pytest.approx(0.8 + 1.0),
    }
    assert Usage().totals(None) == {}
