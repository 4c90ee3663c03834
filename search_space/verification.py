"""Proof that a sliced network's own code still puts every channel in its place.

Code may count on widths: ``x.view(-1, 400)``, ``x.chunk(2, 1)``, ``x[:, :64]``. So a copy is
sliced at random and followed with the labels of the channels that are left; every sum, every
layer then must meet exactly the channels that it meets in the whole network. And it must be the
same sums with the same constants, of the same sizes where no channels lie: code may also branch on
a width, divide by it, or write it into a tensor (`sums.py`).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from search_space.channel_graph import ChannelGraph, kept_entries
from search_space.draft import Call, Draft, stays
from search_space.fakes import UntraceableError
from search_space.labels import STAYS, Labels, broadcast, collapse, varying_dims
from search_space.operation_names import COUNTS_ON_WIDTHS, name_of
from search_space.relayout import RelayoutError
from search_space.slicing import fake_slice
from search_space.sums import first_difference, sums_of
from search_space.tracer import record
from search_space.walk import MisplacedError, walk

_FEW_GROUPS = 32


def find_misplaced(
    model: nn.Module, draft: Draft, graph: ChannelGraph, mode: FakeTensorMode
) -> str | None:
    """Return the module whose code goes wrong in a randomly sliced network, or ``None``.

    Args:
        model: the network itself. (Recording leaves fake constants in the draft's copy, and a
            fake tensor that is no parameter or buffer must not be copied: that corrupts memory.)
        draft: what is known of it.
        graph: what the draft led to.
        mode: the mode the copy's tensors belong to.
    """
    sizes = [group.size for group in graph.groups]
    for is_open in _choices(sizes, bool(modules_counting_on_widths(draft))):
        try:
            _check(model, draft, graph, is_open, mode)
        except (MisplacedError, RelayoutError) as error:
            return error.module
    return None


def modules_counting_on_widths(draft: Draft) -> list[str]:
    """Return the modules whose own code may count on numbers of channels, in order."""
    names = [
        found.part.full_name(node.meta["owner"])
        for found in draft.every_walk
        for node in found.recording.graph.nodes
        if node.op in {"call_function", "call_method"} and name_of(node, None) in COUNTS_ON_WIDTHS
    ]
    return list(dict.fromkeys(names))


def _choices(sizes: Sequence[int], is_risky: bool) -> Iterator[Tensor]:
    """Which units are open, once per check.

    In a network with few groups, code may well be right by luck, as ``x.chunk(2, 1)`` is where
    both halves keep as many channels. There every group is open for at most half of its units
    while any other is for more than half, and the other way round, in some choice.
    """
    generator = torch.Generator().manual_seed(0)

    def some(lowest: int, highest: int, size: int) -> Tensor:
        count = int(torch.randint(lowest, highest + 1, (1,), generator=generator))
        mask = torch.zeros(size, dtype=torch.bool)
        mask[torch.randperm(size, generator=generator)[:count]] = True
        return mask

    for _ in range(2 if is_risky else 1):
        yield torch.cat([some(1, size - 1, size) for size in sizes])
    if is_risky and len(sizes) <= _FEW_GROUPS:
        bits = max(1, (len(sizes) - 1).bit_length())
        for bit, flipped in itertools.product(range(bits), (0, 1)):
            is_wide = [(k >> bit & 1) != flipped for k in range(len(sizes))]
            yield torch.cat(
                [
                    some(size // 2 + 1, max(size // 2 + 1, size - 1), size)
                    if wide
                    else some(1, size // 2, size)
                    for size, wide in zip(sizes, is_wide, strict=True)
                ]
            )


def _check(
    model: nn.Module, draft: Draft, graph: ChannelGraph, is_open: Tensor, mode: FakeTensorMode
) -> None:
    sliced = fake_slice(model, graph, is_open, mode)
    check = _CheckDraft(sliced, draft, is_open)
    for found in draft.every_walk:
        part = found.part
        module = sliced.get_submodule(part.name).train(found.is_training)
        try:
            args = part.training_args if found.is_training else part.args
            recording = record(module, args, mode)
        except UntraceableError as error:
            raise MisplacedError(part.full_name(error.module)) from error
        whole = sums_of(found.recording, found.part.module, found.labels_of)
        differing = first_difference(whole, sums_of(recording, module, {}))
        if differing is not None:
            raise MisplacedError(part.full_name(differing))
        walk(check, dataclasses.replace(part, module=module), recording)


class _SettledLabels(Labels):
    """Labels of a finished graph: what may meet has met in the whole network."""

    def __init__(self, draft: Draft) -> None:
        super().__init__()
        self._whole = draft

    def tie(self, a: Tensor, b: Tensor) -> None:
        if not bool(self._whole.labels.are_tied(*broadcast(a, b)).all()):
            raise MisplacedError("")

    def pin(self, labels: Tensor) -> None:
        if bool((self._whole.unit_of_label[labels] >= 0).any()):
            raise MisplacedError("")

    def new(self, shape: tuple[int, ...]) -> Tensor:
        return torch.full(shape, STAYS)


class _CheckDraft(Draft):
    """A draft of a sliced network, with the labels of the whole one that are left."""

    is_check = True

    def __init__(self, sliced: nn.Module, whole: Draft, is_open: Tensor) -> None:
        super().__init__(sliced, _SettledLabels(whole))
        self._whole, self._is_open = whole, is_open
        self._expected = iter(whole.results)
        self.shrinking_convs = whole.shrinking_convs
        self.axes = {place: self._left(labels) for place, labels in whole.axes.items()}
        for name, block in whole.blocks.items():
            read, written = self._left(block.read), self._left(block.written)
            self.blocks[name] = dataclasses.replace(block, read=read, written=written)

    def result(self, labels: Tensor) -> Tensor:
        expected = next(self._expected, None)
        if expected is None:
            return labels
        own = self._left(expected)
        self.labels.tie(labels, own)
        return own

    def pin(self, call: Call, reason: str) -> None:
        del reason
        for labels, _ in call.inputs:
            self.labels.pin(labels)

    def element_labels(self, name: str) -> Tensor:
        tensor = self.tensor(name)
        assert tensor is not None
        whole = self._whole.elements.get(self.key(name, 0)[0])
        if tensor.ndim == 1 or whole is None:
            return self.axis(name, 0) if tensor.ndim == 1 else stays(tensor.ndim)
        return self._left(whole)

    def _left(self, labels: Tensor) -> Tensor:
        """Labels of open units, where units lie along one dimension."""
        units = collapse(self._whole.unit_of_label[labels])
        for dim in varying_dims(units):
            labels = labels.index_select(dim, kept_entries(units.reshape(-1), self._is_open))
        return labels
