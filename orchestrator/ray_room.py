"""How many trials a Ray cluster has room for, and the wait for nodes that bring it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import ray
from ray.util import placement_group, remove_placement_group

from orchestrator.config import ResourceConfig
from orchestrator.driver import check_interrupted
from orchestrator.errors import UserError

_POLL_S = 0.5


def trials_at_once(resources: ResourceConfig) -> int:
    """Return how many trials the connected cluster has room for, or fewer if so configured."""
    workers = sum(
        min(
            int(node.get(kind, 0) / asked + 1e-6)
            for kind, asked in resources.per_worker.items()
            if asked
        )
        for node in nodes()
    )
    at_once = workers // resources.workers_per_trial
    return min(at_once, resources.max_concurrent_trials or at_once)


def nodes() -> list[dict[str, float]]:
    """Return what each node of the connected cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def find_room(resources: ResourceConfig, tell: Callable[[str], None]) -> None:
    """Check that a trial fits into the connected cluster; ask its autoscaler for nodes if not.

    It is asked by placement groups, which end with this process, however that ends. Where trials
    have several workers, the wait is for as many trials as may run at once: they do not ask for
    nodes later.

    Args:
        resources: of a trial; ``wait_for_nodes_s`` is how long to wait.
        tell: called with a sentence if there is a wait.

    Raises:
        UserError: the cluster is too small for one trial, at once or after the wait.
    """
    wanted = (resources.max_concurrent_trials or 1) if resources.workers_per_trial > 1 else 1
    if resources.wait_for_nodes_s and trials_at_once(resources) < wanted:
        tell(f"waiting for nodes: {_demand(resources)} (at most {resources.wait_for_nodes_s:g} s)")
        _wait_for_nodes(resources, wanted)
    if trials_at_once(resources) == 0:
        raise UserError(_too_small(resources))


def _wait_for_nodes(resources: ResourceConfig, wanted: int) -> None:
    worker = {kind: count for kind, count in resources.per_worker.items() if count}
    bundles = [worker] * resources.workers_per_trial
    asked = [placement_group(bundles) for _ in range(wanted)]
    deadline = time.monotonic() + resources.wait_for_nodes_s
    try:
        while trials_at_once(resources) < wanted and time.monotonic() < deadline:
            check_interrupted()
            time.sleep(_POLL_S)
    finally:
        for group in asked:
            remove_placement_group(group)


def _too_small(resources: ResourceConfig) -> str:
    there = "; ".join(_written(node) for node in nodes())
    sentence = f"resources: {_demand(resources)}, but the nodes of the cluster have {there}"
    if resources.wait_for_nodes_s:
        return f"{sentence}, after {resources.wait_for_nodes_s:g} s (wait_for_nodes_s)"
    return f"{sentence}; if it has an autoscaler, set resources.wait_for_nodes_s"


def _demand(resources: ResourceConfig) -> str:
    asked, workers = _written(resources.per_worker), resources.workers_per_trial
    return f"a trial needs {f'{workers} workers with {asked} each' if workers > 1 else asked}"


def _written(counts: Mapping[str, float]) -> str:
    return " and ".join(f"{counts.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
