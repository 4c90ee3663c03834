"""Labels: which channel every element of a tensor belongs to.

Each channel of a network gets a number, its *label*. A tensor's labels have its number of
dimensions, with size 1 along every dimension on which all elements belong to the same channel;
so an image batch (N, C, H, W) has labels (1, C, 1, 1). Operations that only move data are run on
labels as they are; what ties two channels together makes their labels equivalent.
"""

from __future__ import annotations

import torch
from torch import Tensor

STAYS = 0
"""Label of everything that always stays: images, outputs, what an unknown operation touches."""


class Labels:
    """Hands out labels and remembers which of them are equivalent."""

    def __init__(self) -> None:
        self._next = STAYS + 1
        self._pairs: list[Tensor] = []
        self._classes: tuple[tuple[int, int], Tensor] | None = None
        self._tied: tuple[tuple[int, int], Tensor] | None = None

    def new(self, shape: tuple[int, ...]) -> Tensor:
        """Return fresh labels of that shape, int64."""
        count = int(torch.Size(shape).numel())
        first, self._next = self._next, self._next + count
        return torch.arange(first, first + count).reshape(shape)

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Make labels equivalent, element by element, after broadcasting."""
        if a is b:
            return
        a, b = broadcast(a, b)
        different = a != b
        if bool(different.any()):
            self._pairs.append(torch.stack([a[different], b[different]]))

    def are_tied(self, a: Tensor, b: Tensor) -> Tensor:
        """Whether each label of ``a`` is the same as that of ``b``, or was tied to it directly."""
        same = a == b
        if bool(same.all()):
            return same
        known = len(self._pairs), self._next
        if self._tied is None or self._tied[0] != known:
            pairs = torch.cat(self._pairs, dim=1) if self._pairs else a.new_empty((2, 0))
            self._tied = known, self._as_numbers(*pairs).sort().values
        wanted, tied = self._as_numbers(a, b), self._tied[1]
        places = torch.searchsorted(tied, wanted).clamp_max(max(0, len(tied) - 1))
        return same | (tied[places] == wanted) if len(tied) else same

    def _as_numbers(self, a: Tensor, b: Tensor) -> Tensor:
        """Give every unordered pair of labels a number of its own."""
        return torch.minimum(a, b) * self._next + torch.maximum(a, b)

    def pin(self, labels: Tensor) -> None:
        """Make labels equivalent to :data:`STAYS`."""
        self.tie(labels, torch.tensor(STAYS))

    def classes(self) -> Tensor:
        """Return the smallest equivalent label of every label, int64 (number of labels,)."""
        known = len(self._pairs), self._next
        if self._classes is None or self._classes[0] != known:
            self._classes = known, self._smallest_equivalent()
        return self._classes[1]

    def _smallest_equivalent(self) -> Tensor:
        root = torch.arange(self._next)
        if not self._pairs:
            return root
        a, b = torch.cat(self._pairs, dim=1)
        while True:
            root_a, root_b = root[a], root[b]
            lower = torch.minimum(root_a, root_b)
            if torch.equal(root_a, root_b):
                return root
            for end in (root_a, root_b):
                root = root.scatter_reduce(0, end, lower, "amin")
            while not torch.equal(jumped := root[root], root):
                root = jumped


def broadcast(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Expand two label tensors to their common shape."""
    shape = torch.broadcast_shapes(a.shape, b.shape)  # type: ignore[no-untyped-call]
    return a.expand(shape), b.expand(shape)


def collapse(labels: Tensor) -> Tensor:
    """Shrink to size 1 every dimension along which the labels do not change."""
    for dim, size in enumerate(labels.shape):
        if size > 1:
            first = labels.narrow(dim, 0, 1)
            if labels.stride(dim) == 0 or bool((labels == first).all()):
                labels = first
    return labels


def varying_dims(labels: Tensor) -> list[int]:
    """Return the dimensions along which collapsed labels change."""
    return [dim for dim, size in enumerate(labels.shape) if size > 1]
