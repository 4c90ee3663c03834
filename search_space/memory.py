"""Which activations are alive at once in a forward pass."""

from __future__ import annotations

from torch import Tensor

from search_space.draft import Walk
from search_space.fakes import leaves

Alive = list[tuple[Tensor, float]]


def alive_tensors(found: Walk) -> list[Alive]:
    """Return, per operation, the activations in memory while it runs.

    A tensor lives from the operation that makes it to the last one that uses it or a view of it;
    the network's inputs live throughout. Weights are not counted.

    Returns:
        Per operation, (collapsed labels, bytes per label and image) of every activation.
    """
    born: dict[int, tuple[int, Tensor, float]] = {}
    dies: dict[int, int] = {}
    labels_of, part = found.labels_of, found.part
    nodes = list(found.recording.graph.nodes)
    order = {node: k for k, node in enumerate(nodes)}
    for moment, node in enumerate(nodes):
        if node.op in {"get_attr", "output"}:
            continue
        values, labels = leaves(node.meta["value"]), leaves(labels_of[node])
        for value, label in zip(values, labels, strict=True):
            key = value.untyped_storage()._cdata
            if key not in born:
                size = value.numel() / label.numel() * value.element_size()
                size *= part.calls / part.batch_size
                born[key] = (moment, label, size)
            last = max((order[user] for user in node.users), default=moment)
            if node.op == "placeholder":
                last = len(nodes)
            dies[key] = max(dies.get(key, 0), last)
    moments: list[Alive] = [[] for _ in nodes]
    for key, (start, label, size) in born.items():
        for moment in range(start, min(dies[key] + 1, len(nodes))):
            moments[moment].append((label, size))
    return [moment for moment in moments if moment]
