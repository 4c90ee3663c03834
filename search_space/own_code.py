"""A module's own code, recorded by itself with the labels of what it handles."""

from __future__ import annotations

import inspect
import itertools
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

from search_space.block_modes import all_modes, modes
from search_space.channel_rules import is_movement
from search_space.draft import Draft, Walk
from search_space.operation_names import name_of
from search_space.relayout import Relayout
from search_space.scopes import Scope
from search_space.shaped_proxy import passing_for_tensors
from search_space.tracer import ModuleCall, Recording, run_node
from search_space.walk import walk


@dataclass(frozen=True)
class RelayoutDraft:
    """A module's own code and the labels of what it handles.

    Attributes:
        module: its name.
        graph: its operations, submodules as single steps, sizes worked out as it runs.
        labels: collapsed labels of every node's result, in the place of tensors.
    """

    module: str
    graph: fx.Graph
    labels: dict[fx.Node, Any]

    def settled(self, unit_of_label: Tensor) -> Relayout:
        """Return it with what the labels mean."""
        labels = {node.name: labels for node, labels in self.labels.items()}
        return Relayout(self.module, self.graph, labels, unit_of_label)


class _OwnTracer(fx.Tracer):
    """Does not look into submodules."""

    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return True

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__()
        self._given = given
        self._modes = modes()

    def own_code(self, module: nn.Module) -> fx.Graph:
        """Record a module; what its steps give is taken for tensors, as far as nothing is known."""
        with passing_for_tensors(self._is_tensor):
            return self.trace(module)

    def _is_tensor(self, thing: object) -> bool:
        if type(thing) is not _PartsProxy:
            return False
        if thing.node.op != "placeholder":
            return _number_of_parts(thing.node) is None
        given = self._given.get(str(thing.node.target))
        return isinstance(given, fx.Node) and isinstance(given.meta["value"], Tensor)

    def create_arg(self, a: Any) -> Any:
        return a.node if type(a) is _PartsProxy else super().create_arg(a)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if modes() != self._modes:
            raise RuntimeError("the block it is in would be lost")
        return super().create_node(*args, **kwargs)

    def proxy(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            value = self._given.get(str(node.target))
            if not any(isinstance(leaf, fx.Node) for leaf in tree_leaves(value)):
                return value  # an option: code may ask ``mask is None``
        return _PartsProxy(node, self)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Go through the parts of ``x.chunk(n)`` and ``x.split([a, b])``: their number is known."""
        parts = _number_of_parts(obj.node)
        if parts is None:
            return super().iter(obj)
        return iter([operator.getitem(obj, k) for k in range(parts)])


_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


class _PartsProxy(fx.Proxy):
    """Knows how many parts it has, where the code says so: ``list(x.chunk(2, 1))``."""

    _is_param = _is_buffer = False

    def __len__(self) -> int:
        parts = _number_of_parts(self.node)
        if parts is None:
            raise TypeError(f"length of {self.node.name} is not known")
        return parts


def _number_of_parts(node: fx.Node) -> int | None:
    parts = node.args[1] if len(node.args) > 1 else None
    if name_of(node, None) == "chunk" and isinstance(parts, int):
        return parts
    splits = {"split", "split_with_sizes"}
    return len(parts) if name_of(node, None) in splits and isinstance(parts, list | tuple) else None


def plan_relayout(draft: Draft, name: str, mode: FakeTensorMode) -> RelayoutDraft | None:
    """Record a module's own code; ``None`` where that cannot be done.

    The module must be called exactly once in the forward pass, have no hooks, and its own code must
    be the same in training and evaluation mode, without looking at sizes in its control flow and
    without blocks that turn gradients or automatic casts on or off.
    """
    module = draft.root.get_submodule(name)
    if any(getattr(module, hooks) for hooks in _HOOKS):
        return None
    for found in draft.walks:
        calls = [c for c in _calls(found) if c.module == name]
        if len(calls) == 1:
            break
    else:
        return None
    try:
        bound = inspect.signature(module.forward).bind(*calls[0].args, **calls[0].kwargs)
        bound.apply_defaults()
        given = dict(bound.arguments)
        graphs = []
        for training, is_on in itertools.product((True, False), (True, False)):
            module.training = training
            with all_modes(is_on):
                graphs.append(_OwnTracer(given).own_code(module))
    except Exception:  # whatever fx cannot record stays as it is
        return None
    finally:
        module.training = False
    if len({str(graph) for graph in graphs}) > 1:
        return None
    submodules = {name: type(child).__name__ for name, child in module.named_modules()}
    steps = (submodules.get(str(node.target), name_of(node, None)) for node in graphs[-1].nodes)
    if not any(is_movement(step) for step in steps):
        return None
    labels = _own_labels(draft, found, module, graphs[-1], name, given, mode)
    return None if labels is None else RelayoutDraft(name, graphs[-1], labels)


def _calls(found: Walk) -> list[ModuleCall]:
    """Calls of a walk, the scope itself included, names within the network."""
    part, graph = found.part, found.recording.graph
    calls = [
        ModuleCall(part.full_name(c.module), c.args, c.kwargs, c.result)
        for c in found.recording.calls
    ]
    inputs = tuple(node for node in graph.nodes if node.op == "placeholder")
    output = next(node for node in graph.nodes if node.op == "output")
    return [*calls, ModuleCall(part.name, inputs, {}, output.args[0])]


def _own_labels(
    draft: Draft,
    found: Walk,
    module: nn.Module,
    graph: fx.Graph,
    name: str,
    given: Mapping[str, Any],
    mode: FakeTensorMode,
) -> dict[fx.Node, Any] | None:
    """Labels and values of the module's own steps, from those of the whole walk."""
    results: dict[str, list[Any]] = {}
    for other in _calls(found):
        results.setdefault(other.module, []).append(other.result)
    known: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        node.meta["owner"] = ""
        if node.op == "output":  # of the module, not of the network: nothing is pinned
            known[node] = node.meta["value"] = None
            continue
        if node.op == "placeholder":
            source = given.get(str(node.target))
        elif node.op == "call_module":
            full = ".".join(p for p in (name, str(node.target)) if p)
            if not results.get(full):
                return None
            source = results[full].pop(0)
        else:
            continue
        known[node] = fx.node.map_arg(source, lambda n: found.labels_of[n])
        node.meta["value"] = fx.node.map_arg(source, lambda n: n.meta["value"])
    part = Scope(name, module, [], [], found.part.batch_size)
    try:
        with mode, torch.no_grad():
            _fill_values(module, graph)
        draft.counts_macs = draft.keeps_results = False
        labels = walk(draft, part, Recording(graph, []), known).labels_of
    except Exception:  # whatever cannot be followed stays as it is
        return None
    finally:
        draft.counts_macs = draft.keeps_results = True
    for node in graph.nodes:  # shapes will do; fake tensors must not be copied
        node.meta["value"] = tree_map(_shape_only, node.meta["value"])
    return labels


def _shape_only(value: Any) -> Any:
    return torch.empty(value.shape, device="meta") if isinstance(value, Tensor) else value


def _fill_values(module: nn.Module, graph: fx.Graph) -> None:
    """Work out what each of the module's own steps gives."""
    for node in graph.nodes:
        if "value" in node.meta:
            continue
        if node.op == "get_attr":
            node.meta["value"] = operator.attrgetter(str(node.target))(module)
        else:
            given = fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["value"])
            node.meta["value"] = run_node(node, *given)
