"""From labels to channel groups: which channels go together, and which count alike.

Equivalent labels form a *unit*, the least that can be removed. Units that appear equally often in
the same places form a group, so that every cost depends only on how many of them are open.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from search_space.channel_graph import (
    ChannelGroup,
    UnsupportedOp,
)
from search_space.costs import Width
from search_space.draft import Draft
from search_space.fakes import leaves
from search_space.labels import STAYS, collapse, varying_dims

Place = tuple[str, int]


@dataclass
class Units:
    """Groups found, and for every label the unit it belongs to (-1: always stays)."""

    groups: list[ChannelGroup]
    unit_of_label: Tensor
    group_of_unit: Tensor

    def of(self, labels: Tensor) -> Tensor:
        """Return the unit of each label, long, flat; -1 where it always stays."""
        return self.unit_of_label[labels.reshape(-1)]

    def width(self, labels: Tensor | int) -> Width:
        """Number of elements as a function of the widths."""
        if isinstance(labels, int):
            return Width(labels)
        units = self.of(labels)
        open_units = units[units >= 0]
        counts = torch.bincount(self.group_of_unit[open_units], minlength=len(self.groups))
        per_unit = [
            (group.name, count // group.size)
            for group, count in zip(self.groups, counts.tolist(), strict=True)
            if count
        ]
        return Width(int((units < 0).sum()), tuple(per_unit))


def settled_classes(draft: Draft) -> Tensor:
    """Classes of labels, after pinning parameters whose labels lie along two axes."""
    for place in draft.readers.keys() & draft.writers.keys():  # scaling it would gate both
        reason = "one axis of its weight both reads and writes channels"
        draft.unsupported[UnsupportedOp(draft.readers[place], reason)] = None
        draft.labels.pin(draft.axes[place])
    classes = draft.labels.classes()
    tensors_with_axes = {name for name, _ in draft.axes}
    for name, labels in draft.elements.items():
        shape = collapse(classes[labels])
        if len(varying_dims(shape)) > 1 or name in tensors_with_axes:
            if not bool((classes[labels] == STAYS).all()):
                reason = "its entries belong to channels along more than one axis"
                draft.unsupported[UnsupportedOp(name, reason)] = None
            draft.labels.pin(labels)
            for key in [key for key in draft.axes if key[0] == name]:
                draft.labels.pin(draft.axes[key])
    return draft.labels.classes()


def places_of(draft: Draft) -> list[Tensor]:
    """Label vectors of all places that costs depend on."""
    vectors = list(draft.axes.values()) + list(draft.elements.values())
    for block in draft.blocks.values():
        vectors += [block.read, block.written]
    for multiplication in draft.macs:
        vectors += [v for v in (multiplication.a, multiplication.b) if isinstance(v, Tensor)]
    for found in draft.walks:
        vectors += leaves(list(found.labels_of.values()))
    return [vector.reshape(-1) for vector in vectors]


def find_groups(
    draft: Draft, classes: Tensor, places: Sequence[Tensor]
) -> list[tuple[ChannelGroup, list[int]]]:
    """Return the groups and their classes, in order of execution."""
    signature = torch.zeros(len(classes), dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    for vector in places:
        weight = torch.randint(-(2**62), 2**62, (1,), generator=generator)
        signature.index_add_(0, classes[vector], weight.expand(len(vector)))
    writers = [(owner, classes[draft.axes[key]]) for key, owner in draft.writers.items()]
    writers += [(b.module, classes[b.written]) for b in draft.blocks.values() if not b.depthwise]
    position = {owner: k for k, owner in reversed([*enumerate(m.source for m in draft.macs)])}
    writers.sort(key=lambda pair: position.get(pair[0], len(position)))
    readers = [(owner, classes[draft.axes[key]]) for key, owner in draft.readers.items()]
    readers += [(b.module, classes[b.read]) for b in draft.blocks.values() if not b.depthwise]
    by_signature: dict[int, list[int]] = {}
    seen: set[int] = {STAYS}
    for _, vector in writers:
        for label in vector.tolist():
            if label not in seen:
                seen.add(label)
                by_signature.setdefault(int(signature[label]), []).append(label)
    found: list[tuple[ChannelGroup, list[int]]] = []
    for members in by_signature.values():
        writing = [(owner, v) for owner, v in writers if bool((v == members[0]).any())]
        producers, first = [owner for owner, _ in writing], writing[0][1]
        consumers = [owner for owner, v in readers if bool((v == members[0]).any())]
        per_unit = int((first == members[0]).sum())
        if len(members) == 1:
            if per_unit > 1:
                reason = f"its {per_unit} channels can only go all together"
                draft.unsupported[UnsupportedOp(producers[0], reason)] = None
            continue
        where = int((first == members[0]).nonzero()[0])
        name = f"{producers[0]}[{where}]"
        unique = tuple(dict.fromkeys(producers)), tuple(dict.fromkeys(consumers))
        found.append((ChannelGroup(name, len(members), *unique, per_unit), members))
    return _short_names(found)


def _short_names(
    found: list[tuple[ChannelGroup, list[int]]],
) -> list[tuple[ChannelGroup, list[int]]]:
    """Drop the channel from the name where a producer has only one group."""
    shared = Counter(group.producers[0] for group, _ in found)
    renamed = []
    taken = Counter[str]()
    for group, members in found:
        name = group.producers[0] if shared[group.producers[0]] == 1 else group.name
        taken[name] += 1
        if taken[name] > 1:  # a weight that writes along one axis and, transposed, along another
            name = f"{name}({taken[name]})"
        rest = (group.size, group.producers, group.consumers, group.channels_per_unit)
        renamed.append((ChannelGroup(name, *rest), members))
    return renamed


def without_pinned(
    draft: Draft,
    found: list[tuple[ChannelGroup, list[int]]],
    pinned: Sequence[str],
    scopes: Sequence[str],
) -> list[tuple[ChannelGroup, list[int]]]:
    """Leave out the groups that the caller wants whole.

    Raises:
        ValueError: a name is unknown or lies outside the scopes.
    """
    modules = [name for name, _ in draft.root.named_modules() if name]
    names = [group.name for group, _ in found]
    for name in pinned:
        if name not in names and name not in modules:
            close = difflib.get_close_matches(name, [*names, *modules], n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known groups: {names[:20]}"
            raise ValueError(f"pinned {name!r} is neither a channel group nor a module; {hint}")
        inside = (name == s or name.startswith((f"{s}.", f"{s}[")) for s in scopes)
        if scopes and not any(inside):
            raise ValueError(
                f"pinned {name!r} lies outside the scope ({', '.join(scopes)}), where all "
                "channels stay anyway; remove it or widen the scope"
            )

    def writes(name: str, group: ChannelGroup) -> bool:
        own = (name in (group.name, p) or p.startswith(f"{name}.") for p in group.producers)
        return any(own)

    classes = draft.labels.classes()
    kept = set[str]()
    for name in pinned:
        written = [group.name for group, _ in found if writes(name, group)]
        if not written:  # a norm, a depth-wise layer, the last layer: what its weights lie along
            touched = set(classes[_held_labels(draft, name)].tolist())
            written = [group.name for group, units in found if touched & set(units)]
        kept.update(written)
    return [(group, units) for group, units in found if group.name not in kept]


def _held_labels(draft: Draft, module: str) -> Tensor:
    """Labels along the weights of a module that writes no channels of a group, such as a norm.

    Raises:
        ValueError: it has no weights and no statistics, so that there is nothing to keep.
    """
    part = draft.root.get_submodule(module)
    names = [name for name, _ in [*part.named_parameters(), *part.named_buffers()]]
    if not names:
        raise ValueError(
            f"pinned {module!r} has no weights, so it keeps no channels; name the layer before it"
        )
    tensors = {draft.key(f"{module}.{name}", 0)[0] for name in names}
    held = [labels for (tensor, _), labels in draft.axes.items() if tensor in tensors]
    held += [labels for tensor, labels in draft.elements.items() if tensor in tensors]
    for name, block in draft.blocks.items():
        held += [block.read, block.written] if f"{name}.".startswith(f"{module}.") else []
    return torch.cat([torch.tensor([STAYS]), *(labels.reshape(-1) for labels in held)])


def number_units(groups: list[ChannelGroup], members: list[list[int]], classes: Tensor) -> Units:
    """Count the units of all groups through, and look up the unit of every label."""
    unit_of_class = torch.full((len(classes),), -1)
    flat = torch.tensor([label for labels in members for label in labels])
    unit_of_class[flat] = torch.arange(len(flat))
    sizes = torch.tensor([group.size for group in groups])
    group_of_unit = torch.arange(len(groups)).repeat_interleave(sizes)
    return Units(groups, unit_of_class[classes], group_of_unit)
