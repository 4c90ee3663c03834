"""Sweeps on a cluster that has no room for a trial until Ray's autoscaler has brought nodes."""

from __future__ import annotations

import pytest
from autoscaler import growing_cluster

pytestmark = pytest.mark.slow

QUICK = [
    *("--set", "trials_per_cell=1", "--set", "pretrain.epochs=1", "--set", "search.epochs=1"),
    *("--set", "finetune.epochs=40"),
]


@pytest.fixture(scope="module")
def address():
    with growing_cluster(worker_cpus=1, max_workers=2) as address:
        yield address


def on(address, pas, *options):
    return ["sweep", str(pas.file), *QUICK, "--address", address, *options]


def test_without_a_wait_the_sweep_is_refused_at_once(pas, address):
    done = pas.here(*on(address, pas))
    assert done.returncode == 2
    assert "a trial needs 1 CPUs and 0 GPUs, but the nodes of the cluster have 0 CPUs" in (
        done.stderr
    )
    assert "set resources.wait_for_nodes_s" in done.stderr


def test_what_no_node_can_have_is_refused_after_the_wait(pas, address):
    wait = ("--set", "resources.wait_for_nodes_s=3", "--set", "resources.cpus_per_trial=2")
    done = pas.here(*on(address, pas, *wait))
    assert done.returncode == 2
    assert "waiting for nodes: a trial needs 2 CPUs and 0 GPUs (at most 3 s)" in done.stderr
    assert "after 3 s (wait_for_nodes_s)" in done.stderr
    assert "Traceback" not in done.stderr


def test_nodes_come_for_as_many_trials_as_may_run_at_once(pas, address):
    wait = ("--set", "resources.wait_for_nodes_s=120", "--set", "resources.max_concurrent_trials=2")
    done = pas.here(*on(address, pas, *wait))
    assert done.returncode == 0, done.stderr
    assert "waiting for nodes: a trial needs 1 CPUs and 0 GPUs" in done.stderr
    lines = [line for line in done.stderr.splitlines() if ": started" in line or "FINISHED" in line]
    assert "started" in lines[0]
    assert "started" in lines[1], "the second node came before the first trial ended"
    assert sum("FINISHED" in line for line in lines) == 2
