from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from orchestrator import driver
from orchestrator.driver import (
    Driver,
    arm_termination,
    check_interrupted,
    driver_log,
    driver_of,
    has_died,
    only_driver,
    read_log,
    stop_driver,
    terminate_as_interrupt,
)
from orchestrator.errors import UserError
from orchestrator.home import Home

OTHER = """
import socket, sys, time
from pathlib import Path
from orchestrator.driver import driver_log, only_driver, terminate_as_interrupt
from orchestrator.home import Home
home = Home(Path(sys.argv[1]))
if len(sys.argv) > 2:
    socket.gethostname = lambda: sys.argv[2]
with terminate_as_interrupt(), only_driver(home, "s-1"), driver_log(home, "s-1") as log:
    log("works")
    print("holds", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def start(home):
    """Start another process that runs the sweep s-1."""
    started = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(home.root), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_one_driver_runs_a_sweep_and_others_see_which(home, start):
    assert driver_of(home, "s-1") is None
    other = start()
    seen = driver_of(home, "s-1")
    assert seen is not None
    assert (seen.pid, seen.is_here) == (other.pid, True)
    with pytest.raises(UserError, match="sweep s-1 is being run by another process"):  # noqa: SIM117
        with only_driver(home, "s-1"):
            pass
    assert driver_of(home, "s-1") == seen  # the refused one has not written itself there
    assert not has_died(home, "s-1")
    other.kill()
    other.wait()
    assert driver_of(home, "s-1") is None
    assert has_died(home, "s-1")
    with only_driver(home, "s-1"):
        assert json.loads((home.sweep("s-1") / "lock").read_text())["pid"] == os.getpid()


def test_stopping_waits_for_the_drivers_end_and_what_it_said_stays(home, start):
    assert stop_driver(home, "s-1") is None
    other = start()
    stopped = stop_driver(home, "s-1")
    assert stopped is not None
    assert stopped.pid == other.pid
    assert driver_of(home, "s-1") is None
    begun, said, ended = "".join(read_log(home, "s-1", follow=True)).splitlines()
    assert f"driver {other.pid} on " in begun
    assert said.endswith("Z works")
    assert ended.endswith("driver ends: interrupted")


def test_of_a_driver_elsewhere_nothing_is_known(home, start):
    other = start("elsewhere")
    other.kill()
    other.wait()
    assert not has_died(home, "s-1")
    assert not has_died(home, "s-2")


def test_a_driver_elsewhere_is_named_and_left_alone(home, start):
    other = start("elsewhere")
    with pytest.raises(UserError, match=f"run by process {other.pid} on elsewhere; run 'pas stop'"):
        stop_driver(home, "s-1")
    assert other.poll() is None


def test_a_driver_that_does_not_end_is_told(home, start, monkeypatch):
    other = start()
    other.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(driver, "STOP_WAIT_S", 0.1)
    with pytest.raises(UserError, match=f"process {other.pid} on .* has not ended"):
        stop_driver(home, "s-1")


def test_a_log_is_followed_until_nothing_runs(home):
    pieces = []
    with only_driver(home, "s-1"):
        with driver_log(home, "s-1") as log:
            reader = threading.Thread(
                target=lambda: pieces.extend(read_log(home, "s-1", follow=True))
            )
            reader.start()
            log("first")
            log("second")
        assert reader.is_alive()
    reader.join(60)
    lines = "".join(pieces).splitlines()
    assert [line.split(" ", 1)[1] for line in lines[1:]] == ["first", "second", "driver ends: done"]


def test_the_reason_of_an_end_is_in_the_log(home):
    home.sweep("s-1").mkdir(parents=True)
    with pytest.raises(UserError), driver_log(home, "s-1"):
        raise UserError("the disk is full")
    assert (home.sweep("s-1") / "driver.log").read_text().endswith(" the disk is full\n")


def test_names_that_are_no_utf_8_are_told_all_the_same(home):
    home.sweep("s-1").mkdir(parents=True)
    with pytest.raises(UserError), driver_log(home, "s-1"):
        raise UserError("cannot decode k\udce4fig.png")
    assert "decode k\\udce4fig.png" in "".join(read_log(home, "s-1", follow=False))


def test_no_log_is_told(home):
    with pytest.raises(UserError, match="sweep s-1 has no log in home folder"):
        list(read_log(home, "s-1", follow=False))


def test_only_the_first_sigterm_interrupts():
    before = signal.getsignal(signal.SIGTERM)
    with terminate_as_interrupt():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as Ray does
        arm_termination()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_that_got_lost_is_raised_again(number):
    with terminate_as_interrupt():
        check_interrupted()
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            check_interrupted()
    with terminate_as_interrupt():
        check_interrupted()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_driver_knows_its_machine():
    assert not Driver("elsewhere", 1).is_here
