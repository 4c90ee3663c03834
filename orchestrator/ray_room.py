"""How many trials a Ray cluster has room for, and the wait for nodes that bring it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import ray
from ray.util import placement_group, remove_placement_group

from orchestrator.driver import check_interrupted
from orchestrator.errors import UserError
from orchestrator.sections import ResourceConfig

_POLL_S = 0.5


def trials_at_once(resources: ResourceConfig) -> int:
    """Return how many trials the connected cluster has room for, or fewer if so configured."""
    workers = sum(workers_on(node, resources) for node in nodes())
    at_once = workers // resources.workers_per_trial
    return min(at_once, resources.max_concurrent_trials or at_once)


def workers_on(node: Mapping[str, float], resources: ResourceConfig) -> int:
    """Return how many workers of trials a node has room for."""
    return min(
        int(node.get(kind, 0) / asked + 1e-6)
        for kind, asked in resources.per_worker.items()
        if asked
    )


def nodes() -> list[dict[str, float]]:
    """Return what each node of the connected cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def find_room(
    resources: ResourceConfig, num_trials: int, wait_s: float | None, tell: Callable[[str], None]
) -> None:
    """Check that a trial fits into the connected cluster; ask its autoscaler for nodes before.

    It is asked by placement groups, which end with this process, however that ends.

    Args:
        resources: of a trial.
        num_trials: to wait for room for; less will do when the time is over.
        wait_s: how long to wait; ``None`` where no autoscaler can be.
        tell: called with a sentence if there is a wait, and with an empty one when it is over.

    Raises:
        UserError: the cluster is too small for one trial.
    """
    if wait_s and trials_at_once(resources) < num_trials:
        tell(f"waiting for nodes: {_demand(resources, num_trials)} (at most {wait_s:g} s)")
        _wait_for_room(resources, num_trials, wait_s)
        tell("")
    if trials_at_once(resources) == 0:
        raise UserError(_too_small(resources, wait_s))


def _wait_for_room(resources: ResourceConfig, num_trials: int, wait_s: float) -> None:
    worker = {kind: count for kind, count in resources.per_worker.items() if count}
    deadline = time.monotonic() + wait_s
    asked = []
    try:
        for _ in range(num_trials):
            asked.append(placement_group([worker] * resources.workers_per_trial))
        while trials_at_once(resources) < num_trials and time.monotonic() < deadline:
            check_interrupted()
            time.sleep(_POLL_S)
    finally:
        for group in asked:
            remove_placement_group(group)


def _too_small(resources: ResourceConfig, wait_s: float | None) -> str:
    there = "; ".join(_written(node) for node in nodes())
    sentence = f"resources: {_demand(resources)}, but the nodes of the cluster have {there}"
    if wait_s:
        return f"{sentence}, after {wait_s:g} s (wait_for_nodes_s)"
    if wait_s is not None:
        return f"{sentence}; if it has an autoscaler, set resources.wait_for_nodes_s"
    return f"{sentence}; lower resources.cpus_per_trial or gpus_per_trial"


def _demand(resources: ResourceConfig, num_trials: int = 1) -> str:
    asked, workers = _written(resources.per_worker), resources.workers_per_trial
    who = "a trial" if num_trials == 1 else f"each of {num_trials} trials"
    return f"{who} needs {f'{workers} workers with {asked} each' if workers > 1 else asked}"


def _written(counts: Mapping[str, float]) -> str:
    return " and ".join(f"{counts.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
