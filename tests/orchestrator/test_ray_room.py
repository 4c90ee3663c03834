"""Room on a cluster whose nodes come one by one; placement groups are only noted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from orchestrator import ray_cluster, ray_room
from orchestrator.errors import UserError
from orchestrator.ray_room import find_room, trials_at_once
from orchestrator.sections import ResourceConfig


class Cluster:
    """Has one of ``coming`` more each time that the waiting driver sleeps."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.nodes: list[dict[str, float]] = [{"node:head": 1.0}]
        self.coming: list[dict[str, float]] = []
        self.asked: list[Any] = []
        self.asked_in_all: list[Any] = []
        self.told: list[str] = []
        patch.setattr(ray_room, "nodes", lambda: self.nodes)
        patch.setattr(ray_room, "placement_group", self.ask)
        patch.setattr(ray_room, "remove_placement_group", self.asked.remove)
        patch.setattr(ray_room.time, "sleep", lambda _s: self.nodes.extend(self.next_nodes()))

    def ask(self, bundles: list[dict[str, float]]) -> object:
        self.asked.append(bundles)
        self.asked_in_all.append(bundles)
        return bundles

    def next_nodes(self) -> Iterable[dict[str, float]]:
        return [self.coming.pop(0)] if self.coming else []

    def find_room(self, resources: ResourceConfig, num_trials: int, wait_s: float | None) -> None:
        find_room(resources, num_trials, wait_s, self.told.append)


@pytest.fixture
def head(monkeypatch):
    return Cluster(monkeypatch)


def test_the_first_node_is_asked_for_and_waited_for(head):
    head.coming = [{"CPU": 1.0}, {"CPU": 4.0}, {"CPU": 4.0}]
    head.find_room(ResourceConfig(cpus_per_trial=2), 1, 60)
    assert len(head.nodes) == 3
    assert head.asked_in_all == [[{"CPU": 2.0}]]  # no GPU, of which none is needed
    assert head.asked == []
    assert head.told == ["waiting for nodes: a trial needs 2 CPUs and 0 GPUs (at most 60 s)", ""]


def test_trials_of_several_workers_wait_for_all(head):
    resources = ResourceConfig(cpus_per_trial=4, workers_per_trial=2, max_concurrent_trials=3)
    head.coming = [{"CPU": 2.0}] * 10
    head.find_room(resources, 3, 60)
    assert trials_at_once(resources) == 3
    assert head.asked_in_all == [[{"CPU": 2.0}, {"CPU": 2.0}]] * 3
    assert head.told[0].startswith(
        "waiting for nodes: each of 3 trials needs 2 workers with 2 CPUs and 0 GPUs each"
    )


def test_fewer_will_do_when_the_time_is_over(head):
    head.coming = [{"CPU": 1.0}]
    head.find_room(ResourceConfig(), 2, 0.05)
    assert (len(head.nodes), head.asked) == (2, [])


def test_there_is_no_wait_where_there_is_room(head):
    head.nodes.append({"CPU": 1.0})
    head.find_room(ResourceConfig(), 1, 60)
    assert (head.told, head.asked_in_all) == ([], [])


@pytest.mark.parametrize(
    ("wait_s", "told"),
    [
        (0.0, "have 0 CPUs and 0 GPUs; if it has an autoscaler, set resources.wait_for_nodes_s"),
        (0.05, r"have 0 CPUs and 0 GPUs, after 0\.05 s \(wait_for_nodes_s\)"),
        (None, "have 0 CPUs and 0 GPUs; lower resources.cpus_per_trial or gpus_per_trial$"),
    ],
)
def test_no_room_at_all_is_told(head, wait_s, told):
    with pytest.raises(UserError, match=told):
        head.find_room(ResourceConfig(), 1, wait_s)


def test_an_interruption_takes_the_requests_back(head, monkeypatch):
    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ray_room.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        head.find_room(ResourceConfig(), 2, 60)
    assert (len(head.asked_in_all), head.asked) == (2, [])


def test_the_supernet_books_what_a_node_with_room_for_trials_has(monkeypatch):
    monkeypatch.setattr(ray_cluster, "nodes", lambda: [{"CPU": 16.0}, {"CPU": 4.0, "GPU": 1.0}])
    with_gpu = ResourceConfig(cpus_per_trial=1, gpus_per_trial=1)
    assert ray_cluster.supernet_booking(with_gpu) == (4, 1)
    assert ray_cluster.supernet_booking(ResourceConfig()) == (8, 0)
