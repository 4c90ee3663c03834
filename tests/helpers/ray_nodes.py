"""A Ray cluster of several nodes (raylets) on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.cluster_utils import Cluster
from warm_python import workers_forked


class WarmCluster(Cluster):  # type: ignore[misc]
    """Workers of its nodes start at once."""

    def add_node(self, *arguments: Any, **options: Any) -> Any:
        with workers_forked():
            return super().add_node(*arguments, **options)


@contextmanager
def ray_nodes(*cpus: int, num_gpus: int = 0) -> Iterator[Cluster]:
    """Start a node with each of these numbers of CPUs; the first is the head, with the GPUs."""
    head = {"num_cpus": cpus[0], "num_gpus": num_gpus, "include_dashboard": False}
    cluster = WarmCluster(initialize_head=True, head_node_args=head)
    try:
        for num_cpus in cpus[1:]:
            cluster.add_node(num_cpus=num_cpus)
        yield cluster
    finally:
        cluster.shutdown()
