"""From channel groups to the channel graph: costs, and where the units lie in the tensors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from torch import Tensor

from search_space.channel_graph import (
    Axis,
    BlockChannels,
    ChannelGraph,
    Layout,
)
from search_space.costs import Product, Width
from search_space.draft import Draft
from search_space.grouping import (
    Place,
    Units,
    find_groups,
    number_units,
    places_of,
    settled_classes,
    without_pinned,
)
from search_space.labels import collapse, varying_dims
from search_space.memory import alive_tensors
from search_space.operator_listing import list_inputs, list_operators
from search_space.own_code import RelayoutDraft


def build_graph(
    draft: Draft,
    network: str,
    pinned: Sequence[str],
    scopes: Sequence[str],
    relayouts: Mapping[str, RelayoutDraft],
) -> ChannelGraph:
    """Turn what was found into a channel graph.

    Raises:
        ValueError: a pinned name is unknown or lies outside the scopes, or nothing is searchable.
    """
    classes = settled_classes(draft)
    places = places_of(draft)
    groups = find_groups(draft, classes, places)
    groups = without_pinned(draft, groups, pinned, scopes)
    if not groups:
        reasons = [f"{op.module}: {op.reason}" for op in draft.unsupported]
        reason = "; ".join(reasons[:5]) or "all are pinned or are the network's output"
        raise ValueError(f"no channel of {network} is searchable ({reason})")
    units = number_units([g for g, _ in groups], [c for _, c in groups], classes)
    draft.unit_of_label = units.unit_of_label
    products = [
        Product(m.source, _whole(m.coefficient), units.width(m.a), units.width(m.b))
        for m in draft.macs
    ]
    return ChannelGraph(
        units.groups,
        products,
        _parameter_products(draft, units),
        _moments(draft, units),
        layout=_layout(draft, units, relayouts),
        unsupported=list(draft.unsupported),
        operators=list_operators(draft, units),
        inputs=list_inputs(draft),
    )


def _whole(number: float) -> float:
    return int(number) if float(number).is_integer() else number


def _axes(draft: Draft, classes: Tensor) -> dict[Place, Tensor]:
    """Every axis that belongs to channels, those of plain tensors included."""
    axes = dict(draft.axes)
    for name, labels in draft.elements.items():
        kept = collapse(classes[labels])
        for dim in varying_dims(kept):
            axes[(name, dim)] = labels.movedim(dim, 0).reshape(kept.shape[dim], -1)[:, 0]
    return axes


def _parameter_products(draft: Draft, units: Units) -> list[Product]:
    """One addend per parameter; those of a block as the convolution it becomes."""
    products = []
    for block in draft.blocks.values():
        written = units.width(block.written)
        read = Width(1) if block.depthwise else units.width(block.read)
        products.append(Product(block.module, block.kernel_area, read, written))
        products.append(Product(block.module, 1, Width(1), written))
    axes = _axes(draft, draft.labels.classes())
    for name, parameter in draft.root.named_parameters():
        if any(name.startswith(f"{block}.") for block in draft.blocks):
            continue
        widths = {dim: units.width(labels) for (n, dim), labels in axes.items() if n == name}
        varying = [(d, w) for d, w in widths.items() if w.per_unit]
        assert len(varying) <= 2, name
        rest = math.prod(s for d, s in enumerate(parameter.shape) if d not in dict(varying))
        products.append(Product(name, rest, *[w for _, w in varying]))
    return products


def _moments(draft: Draft, units: Units) -> list[Width]:
    """Bytes alive at each moment, as functions of the widths."""
    known: dict[int, Width] = {}
    moments = []
    for found in draft.walks:
        for alive in alive_tensors(found):
            fixed, per_group = 0.0, Counter[str]()
            for labels, size in alive:
                if id(labels) not in known:
                    known[id(labels)] = units.width(labels)
                width = known[id(labels)]
                fixed += width.fixed * size
                for name, count in width.per_unit:
                    per_group[name] += count * size  # type: ignore[assignment]
            moments.append(Width(_whole(fixed), tuple(per_group.items())))  # type: ignore[arg-type]
    return moments


def _layout(draft: Draft, units: Units, relayouts: Mapping[str, RelayoutDraft]) -> Layout:
    def axis(place: Place, labels: Tensor) -> Axis:
        return Axis(place[0], place[1], units.of(labels))

    def searchable(found: list[Axis]) -> tuple[Axis, ...]:
        return tuple(a for a in found if bool((a.units >= 0).any()))

    readers = [axis(key, draft.axes[key]) for key in draft.readers]
    readers += [axis(key, labels) for key, (_, labels) in draft.block_readers.items()]
    blocks = [
        BlockChannels(b.module, units.of(b.read), units.of(b.written))
        for b in draft.blocks.values()
    ]
    every = _axes(draft, draft.labels.classes())
    return Layout(
        axes=searchable([axis(place, labels) for place, labels in every.items()]),
        readers=searchable(readers),
        norms=searchable([axis(key, draft.axes[key]) for key in draft.norms]),
        blocks=tuple(blocks),
        sized=tuple((name, units.of(labels)) for name, labels in draft.sized.items()),
        shrinking_convs=frozenset(draft.shrinking_convs),
        # Innermost first: a module's new code takes over the submodules it finds.
        relayouts=tuple(
            relayouts[name].settled(units.unit_of_label)
            for name in sorted(relayouts, key=lambda n: -n.count("."))
        ),
    )
