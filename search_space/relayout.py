"""New code for modules that would misplace channels once some are gone.

Code such as ``x.chunk(2, 1)``, a channel shuffle, ``x[:, :64]`` or ``x.view(-1, 400)`` counts on
widths. Its module is recorded by itself, submodules untouched; for given open channels, every
step that only moves data is tried on the labels of the channels that are left, and those that
would put one in the wrong place are replaced by a selection that puts it in the right one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from search_space.channel_graph import kept_entries
from search_space.channel_rules import is_movement, run_movement
from search_space.draft import full_labels, tensor_nodes
from search_space.fakes import leaves
from search_space.in_place import is_in_place
from search_space.labels import collapse, varying_dims
from search_space.operation_names import name_of


@dataclass(frozen=True)
class Relayout:
    """A module's own code, for any choice of open units.

    Attributes:
        module: its name.
        graph: its operations, submodules as single steps, sizes worked out as it runs.
        labels: collapsed labels of every step's result, by name, in the place of tensors.
        unit_of_label: unit of every label, -1 where it always stays; the number behind the last
            unit where it has been removed already.
    """

    module: str
    graph: fx.Graph
    labels: dict[str, Any]
    unit_of_label: Tensor


class RelayoutError(RuntimeError):
    """Channels of a module cannot be put in their places; names the module."""

    def __init__(self, module: str) -> None:
        super().__init__(f"the channels that {module or 'the network'} moves cannot be placed")
        self.module = module


def apply_relayouts(
    network: nn.Module, relayouts: Sequence[Relayout], is_open: Tensor
) -> nn.Module:
    """Give modules of a sliced network the code that suits its open units; return the network."""
    is_open = torch.cat([is_open, is_open.new_zeros(1)])
    for relayout in relayouts:
        module = network.get_submodule(relayout.module)
        new = _Rewriting(module, relayout, is_open).module()
        if not relayout.module:
            return new
        network.set_submodule(relayout.module, new)
    return network


class _Rewriting:
    """One module's code, for one choice of open units."""

    def __init__(self, module: nn.Module, relayout: Relayout, is_open: Tensor) -> None:
        self._name = relayout.module
        self._module, self._labels, self._is_open = module, relayout.labels, is_open
        self._unit_of_label = relayout.unit_of_label
        self._old = list(relayout.graph.nodes)
        self._graph = copy.deepcopy(relayout.graph)
        self._new = dict(zip(self._old, self._graph.nodes, strict=True))
        self._full = {node: self._full_labels(node) for node in self._old}
        self._sliced: dict[fx.Node, Any] = {}
        self._selections: dict[str, Tensor] = {}

    def module(self) -> nn.Module:
        """Return the module with its new code; it shares parameters and submodules."""
        for node in self._old:
            self._sliced[node] = self._step(node)
        for name, index in self._selections.items():
            self._module.register_buffer(name, index)
        for node in self._graph.nodes:
            node.meta.clear()
        made = fx.GraphModule(self._module, self._graph, type(self._module).__name__)
        # Of what no step needs any more; what changes a tensor in place is needed unseen.
        made.graph.eliminate_dead_code(
            lambda node: node.is_impure() or is_in_place(node, self._submodule(node))
        )
        made.recompile()
        for name in self._selections:  # not stored with the weights: it follows from the widths
            made._non_persistent_buffers_set.add(name)
        for kind in ("_modules", "_parameters", "_buffers"):
            for name, member in getattr(self._module, kind).items():
                getattr(made, kind).setdefault(name, member)  # what the forward pass leaves out
        made.train(self._module.training)
        return made

    def _full_labels(self, node: fx.Node) -> Any:
        """Full-size labels in the place of tensors; other values as they are."""
        return full_labels(self._labels.get(node.name), node.meta.get("value"))

    def _units(self, labels: Tensor) -> Tensor:
        return collapse(self._unit_of_label[collapse(labels)])

    def _step(self, node: fx.Node) -> Any:
        """What a node's result is in the sliced network: labels that are left, in their places."""
        expected = tree_map(
            lambda v: self._left(v) if isinstance(v, Tensor) else v, self._full[node]
        )
        if node.op in {"placeholder", "get_attr", "output"}:
            return expected
        if not self._moves(node) and leaves(self._full[node]):
            return expected
        try:
            natural = run_movement(node, self._known, self._submodule(node))
        except Exception:  # code that checks a width may raise anything
            natural = None
        if not leaves(self._full[node]) or _same(natural, expected):
            return natural
        if isinstance(expected, Tensor):
            self._replace(node, expected)
            return expected
        return None

    def _submodule(self, node: fx.Node) -> nn.Module | None:
        is_call = node.op == "call_module"
        return self._module.get_submodule(str(node.target)) if is_call else None

    def _moves(self, node: fx.Node) -> bool:
        return is_movement(name_of(node, self._submodule(node)))

    def _known(self, node: fx.Node) -> Any:
        value = self._sliced[node]
        if value is None:
            raise KeyError(node.name)
        return value

    def _left(self, labels: Tensor) -> Tensor | None:
        """Select what is open, where units lie along one dimension only."""
        units = self._units(labels)
        dims = varying_dims(units)
        if not dims:
            return labels
        if len(dims) > 1:
            return None
        return labels.index_select(dims[0], kept_entries(units.reshape(-1), self._is_open))

    def _replace(self, node: fx.Node, expected: Tensor) -> None:
        """Put a selection, or a view of the right size, in the place of a node."""
        source = self._source(node)
        with self._graph.inserting_before(self._new[node]):
            made = (
                self._resized_view(node, expected)
                or self._selection(node, source, expected)
                or self._view(source, expected)
            )
        self._new[node].replace_all_uses_with(made)
        self._new[node] = made

    def _source(self, node: fx.Node) -> fx.Node:
        """The tensor a chain of movements starts from, rightly placed in the sliced network."""
        while True:
            inputs = [n for n in tensor_nodes(node) if leaves(self._full[n])]
            if len(inputs) != 1:
                raise RelayoutError(self._name)
            node = inputs[0]
            if isinstance(self._sliced[node], Tensor):
                return node

    def _selection(self, node: fx.Node, source: fx.Node, expected: Tensor) -> fx.Node | None:
        """Select along one dimension, where the chain keeps the others."""
        whole, result = self._full[source], self._full[node]
        dims = varying_dims(self._units(whole))
        if whole.ndim != result.ndim or len(dims) != 1:
            return None
        dim = dims[0]
        shape = [-1 if d == dim else 1 for d in range(whole.ndim)]
        places = torch.arange(whole.shape[dim]).reshape(shape).expand(whole.shape)
        moved = collapse(self._rerun(node, {source: places}))
        if varying_dims(moved) not in ([dim], []):
            return None
        order = (
            moved.reshape(-1).expand(result.shape[dim]) if moved.numel() == 1 else moved.reshape(-1)
        )
        left = kept_entries(self._units(whole).reshape(-1), self._is_open)
        new_place = torch.full((whole.shape[dim],), -1)
        new_place[left] = torch.arange(len(left))
        units = self._units(result)
        wanted = units.reshape(-1) if units.numel() > 1 else units.reshape(-1).expand(len(order))
        index = new_place[order[kept_entries(wanted, self._is_open)]]
        sliced = self._sliced[source]
        if bool((index < 0).any()) or not torch.equal(sliced.index_select(dim, index), expected):
            return None
        return self._select_node(self._new[source], dim, index)

    def _select_node(self, source: fx.Node, dim: int, index: Tensor) -> fx.Node:
        first, count = int(index[0]), len(index)
        if torch.equal(index, torch.arange(first, first + count)):
            return self._graph.call_function(torch.narrow, (source, dim, first, count))
        name = f"kept_channels_{len(self._selections)}"
        parameter = next(self._module.parameters(), index)
        device = "cpu" if parameter.is_meta else parameter.device
        self._selections[name] = index.to(device)
        return self._graph.call_function(
            torch.index_select, (source, dim, self._graph.get_attr(name))
        )

    def _resized_view(self, node: fx.Node, expected: Tensor) -> fx.Node | None:
        """The same view with another number of channels."""
        dims = varying_dims(self._units(self._full[node]))
        if name_of(node, None) not in {"reshape", "view"} or len(dims) != 1:
            return None
        given = node.args[1] if isinstance(node.args[1], list | tuple) else node.args[1:]
        source, sizes = node.args[0], list(given)
        if not isinstance(source, fx.Node) or len(sizes) != expected.ndim:
            return None
        sizes[dims[0]] = expected.shape[dims[0]]
        numbers = [self._sliced[s] if isinstance(s, fx.Node) else s for s in sizes]
        labels = self._sliced[source]
        try:
            if labels is None or not torch.equal(labels.reshape(numbers), expected):
                return None
        except (RuntimeError, TypeError):
            return None
        arguments = [self._new[s] if isinstance(s, fx.Node) else s for s in sizes]
        return self._graph.call_method("reshape", (self._new[source], *arguments))

    def _view(self, source: fx.Node, expected: Tensor) -> fx.Node:
        """Flatten everything but the batch; of a parameter, any view along one dimension."""
        sliced = self._sliced[source]
        dims = varying_dims(collapse(expected))
        if source.op == "get_attr" and len(dims) == 1:
            shape = [-1 if dim == dims[0] else size for dim, size in enumerate(expected.shape)]
            if torch.equal(sliced.reshape(shape), expected):
                return self._graph.call_function(torch.reshape, (self._new[source], shape))
        if expected.ndim != 2 or not torch.equal(sliced.flatten(1), expected):
            raise RelayoutError(self._name)
        return self._graph.call_function(torch.flatten, (self._new[source], 1))

    def _rerun(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        """Run a chain of whole-network steps from other starting values."""
        if node in values:
            return values[node]
        inputs = {
            n: self._rerun(n, values) if leaves(self._full[n]) else self._full[n]
            for n in tensor_nodes(node)
        }
        return run_movement(node, lambda n: inputs[n], self._submodule(node))


def _same(a: Any, b: Any) -> bool:
    """Whether two nested values hold equal tensors."""
    ours, theirs = leaves(a), leaves(b)
    return (
        bool(theirs)
        and len(ours) == len(theirs)
        and all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))
    )
