"""From the recorded graph of a network to its operators."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from search_space.costs import Width
from search_space.draft import Draft, Walk, tensor_nodes
from search_space.fakes import leaves
from search_space.grouping import Units
from search_space.labels import collapse, varying_dims
from search_space.layer_rules import LAYER_RULES
from search_space.operators import Operator, ScopeInputs, TensorSpec, call_text
from search_space.reparam import PlainBlock, ReparamBlock
from search_space.scopes import Scope


def list_operators(draft: Draft, units: Units) -> tuple[Operator, ...]:
    """Return the operators of the evaluation mode in order of execution.

    Args:
        draft: after all scopes were gone through.
        units: what the labels stand for.
    """
    listings = [_Listing(draft, units, found) for found in draft.walks]
    found = [listing.operator(node) for listing in listings for node in listing.nodes]
    return tuple(operator for operator in found if operator is not None)


def list_inputs(draft: Draft) -> tuple[ScopeInputs, ...]:
    """Return what reaches each searched part."""
    inputs = []
    for found in draft.walks:

        def spec(value: Any, part: Scope = found.part) -> Any:
            seen = isinstance(value, Tensor)
            return _Seen(value, part.batch_size, {}, part.calls).spec(()) if seen else value

        nodes = found.recording.graph.nodes
        values = [node.meta["value"] for node in nodes if node.op == "placeholder"]
        inputs.append(ScopeInputs(found.part.name, tuple(tree_map(spec, values))))
    return tuple(inputs)


@dataclass(frozen=True, slots=True)
class _Side:
    """A width with the number of channels it has in the supernet."""

    width: Width
    full: int

    @property
    def share(self) -> Any:
        """Equal for widths that are proportional at any widths of the groups."""
        per_unit = ((name, Fraction(count, self.full)) for name, count in self.width.per_unit)
        return Fraction(self.width.fixed, self.full), tuple(per_unit)

    @property
    def step(self) -> int:
        return math.gcd(self.width.fixed, *(count for _, count in self.width.per_unit))


_NO_SIDE = _Side(Width(1), 1)


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """A fake tensor, the batch size it was made with (0: it has none), its searchable dims, and
    how many samples of the batch belong to one image."""

    value: Tensor
    batch_size: int
    sides: dict[int, _Side]
    calls: int = 1

    def spec(self, of_operator: Sequence[Any]) -> TensorSpec:
        """Describe the tensor, given the shares of the operator's read and written channels.

        A dim that follows neither (one of several that are concatenated) goes with the last.
        """
        shape, strides = list(self.value.shape), self.value.stride()
        is_batched = bool(self.batch_size and shape and shape[0] % self.batch_size == 0)
        if is_batched:
            shape[0] = shape[0] // self.batch_size * self.calls
        resized = [(d, 0 if side.share == of_operator[0] else 1) for d, side in self.sides.items()]
        order = sorted(range(len(shape)), key=lambda d: -strides[d])
        dtype = self.value.dtype
        return TensorSpec(tuple(shape), dtype, tuple(resized), tuple(order), is_batched)


class _Listing:
    """Turns the nodes of one scope into operators."""

    def __init__(self, draft: Draft, units: Units, found: Walk) -> None:
        self.nodes = found.recording.graph.nodes
        self._draft, self._units = draft, units
        self._prefix = f"{found.part.name}." if found.part.name else ""
        self._labels_of = found.labels_of
        self._batch_size, self._calls = found.part.batch_size, found.part.calls
        self._from_images: set[fx.Node] = set()

    def operator(self, node: fx.Node) -> Operator | None:
        """Return the operator of a node, if it takes any time."""
        sources = tensor_nodes(node)
        if node.op == "placeholder" or not self._from_images.isdisjoint(sources):
            self._from_images.add(node)
        values = leaves(node.meta["value"])
        takes_apart = node.op == "call_function" and node.target is getattr  # a shape, a dtype
        picks = sources and not isinstance(sources[0].meta["value"], Tensor)
        picks = picks and getattr(node.target, "__name__", "") == "getitem"
        if not node.op.startswith("call") or not values or takes_apart or picks:
            return None
        module, tensors = self._module(node)
        arguments = fx.node.map_arg((node.args, node.kwargs), self._seen)
        inputs = [seen for seen in tree_leaves(arguments) if isinstance(seen, _Seen)]
        outputs = self._side_of_each(leaves(self._labels_of[node]))
        read, written = _read_and_written(inputs, outputs, _mixes_channels(node, module))
        shares = read.share, written.share

        def described(value: Any) -> Any:
            return value.spec(shares) if isinstance(value, _Seen) else value

        arguments = tree_map(described, arguments)
        specs = tuple((name, seen.spec(shares)) for name, seen in tensors.items())
        target = node.target if module is None else module
        steps = read.step, written.step
        text = call_text(target, arguments, specs)
        suffix = "".join(f" {s} by {n}" for s, n in zip("rw", steps, strict=True) if n > 1)
        owner = self._prefix + (str(node.target) if module else str(node.meta["owner"]))
        kind = "" if module else f" {getattr(node.target, '__name__', node.target)}"
        return Operator(
            (owner + kind).strip(" ."),
            text + suffix,
            read.width,
            written.width,
            (read.full, written.full),
            steps,
            target,
            arguments,
            specs,
            self._has_group_per_unit(node, module),
        )

    def _module(self, node: fx.Node) -> tuple[nn.Module | None, dict[str, _Seen]]:
        """Return the module of a node without its tensors, and these; blocks in deploy form."""
        if node.op != "call_module":
            return None, {}
        name = f"{self._prefix}{node.target}"
        module = self._draft.root.get_submodule(name)
        if isinstance(module, ReparamBlock):
            return self._plain_block(name, module)
        named = [*module.named_parameters(), *module.named_buffers()]
        tensors = {n: _Seen(t, 0, self._parameter_sides(f"{name}.{n}")) for n, t in named}
        return _without_tensors(module), tensors

    def _plain_block(
        self, name: str, block: ReparamBlock
    ) -> tuple[nn.Module | None, dict[str, _Seen]]:
        groups = block.in_channels if block.depthwise else 1
        with torch.device("meta"):
            plain = PlainBlock(
                block.in_channels, block.out_channels, block.stride, block.kernel_size, groups
            ).eval()
        known = self._draft.blocks[name]
        sides = self._side_of_each([known.written.reshape(-1, 1), known.read.reshape(1, -1)])
        weight = {d: s for side in sides for d, s in side.items() if d == 0 or not block.depthwise}
        bias = {d: side for d, side in weight.items() if d == 0}
        assert plain.conv.bias is not None
        tensors = {
            "conv.weight": _Seen(plain.conv.weight, 0, weight),
            "conv.bias": _Seen(plain.conv.bias, 0, bias),
        }
        return _without_tensors(plain), tensors

    def _seen(self, source: fx.Node) -> Any:
        """Return a node's value with a :class:`_Seen` in the place of every tensor."""
        batch_size = self._batch_size if source in self._from_images else 0
        if source.op == "get_attr":
            sides = self._parameter_sides(f"{self._prefix}{source.target}")
            if sides:
                return _Seen(source.meta["value"], 0, sides)
        found = iter(self._side_of_each(leaves(self._labels_of[source])))

        def seen(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return _Seen(value, batch_size, next(found), self._calls)

        return tree_map(seen, source.meta["value"])

    def _parameter_sides(self, name: str) -> dict[int, _Side]:
        tensor = self._draft.tensor(name)
        if tensor is None:
            return {}
        keys = {dim: self._draft.key(name, dim) for dim in range(tensor.ndim)}
        known = {d: self._draft.axes[key] for d, key in keys.items() if key in self._draft.axes}
        sides = {d: _Side(self._units.width(v), v.numel()) for d, v in known.items()}
        return {d: side for d, side in sides.items() if side.width.per_unit}

    def _side_of_each(self, labels: Iterable[Tensor]) -> list[dict[int, _Side]]:
        """Return the searchable dim of every tensor; of several the longest stands for all."""
        found: list[dict[int, _Side]] = []
        for tensor in labels:
            dims = varying_dims(collapse(self._units.unit_of_label[tensor]))
            kept = tensor
            for dim in set(range(tensor.ndim)) - set(dims):
                kept = kept.narrow(dim, 0, 1)
            side = _Side(self._units.width(kept), kept.numel())
            is_searchable = bool(dims and side.width.per_unit)
            found.append({max(dims, key=lambda d: kept.shape[d]): side} if is_searchable else {})
        return found

    def _has_group_per_unit(self, node: fx.Node, module: nn.Module | None) -> bool:
        if isinstance(module, PlainBlock):
            return module.groups > 1
        name = node.target if module else node.meta["owner"]
        return f"{self._prefix}{name}" in self._draft.shrinking_convs


def _read_and_written(
    inputs: Sequence[_Seen], outputs: Sequence[dict[int, _Side]], mixes_channels: bool
) -> tuple[_Side, _Side]:
    before = [side for seen in inputs for side in seen.sides.values()]
    after = [side for sides in outputs for side in sides.values()]
    written = next(iter(after if mixes_channels else [*after, *before]), _NO_SIDE)
    others = [side for side in before if mixes_channels and side.share != written.share]
    return next(iter(others), _NO_SIDE), written


def _mixes_channels(node: fx.Node, module: nn.Module | None) -> bool:
    name = type(module).__name__ if module else getattr(node.target, "__name__", node.target)
    return isinstance(module, PlainBlock) or name in LAYER_RULES


def _without_tensors(module: nn.Module) -> nn.Module:
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): None for tensor in tensors})
