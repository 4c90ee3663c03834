"""Following channels through a recording, operation by operation."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx
from torch.utils._pytree import tree_map

from search_space.channel_rules import apply_rule, is_movement
from search_space.draft import Call, Draft, Walk, stays, stays_like, tensor_nodes
from search_space.fakes import leaves
from search_space.layer_rules import LAYER_RULES
from search_space.operation_names import LIKE_FIRST, name_of
from search_space.scopes import Scope
from search_space.tracer import Recording


class MisplacedError(Exception):
    """A sliced network's code puts channels where they do not belong; names the module."""

    def __init__(self, module: str) -> None:
        super().__init__(module)
        self.module = module


def walk(
    draft: Draft,
    part: Scope,
    recording: Recording,
    known: dict[fx.Node, Any] | None = None,
) -> Walk:
    """Give every node's result its labels, tying and pinning in the draft what must be.

    Args:
        draft: what is known so far.
        part: the scope that was recorded.
        recording: of the scope's module.
        known: labels of nodes that are not to be worked out.
    """
    labels_of: dict[fx.Node, Any] = dict(known or {})
    draft.batch_size, draft.calls = part.batch_size, part.calls
    for node in recording.graph.nodes:
        if node in labels_of:
            continue
        try:
            labels_of[node] = _labels(draft, part, node, labels_of)
        except (MisplacedError, RuntimeError) as error:
            if isinstance(error, MisplacedError) or draft.is_check:
                raise MisplacedError(part.full_name(node.meta["owner"])) from error
            raise
    return Walk(recording, labels_of, part)


def _labels(draft: Draft, part: Scope, node: fx.Node, labels_of: dict[fx.Node, Any]) -> Any:
    if node.op == "output":
        for source in tensor_nodes(node):
            for labels in leaves(labels_of[source]):
                draft.labels.pin(labels)
        return fx.node.map_arg(node.args[0], lambda n: labels_of[n])
    if node.op == "placeholder":
        return stays_like(node.meta["value"])
    if node.op == "get_attr":
        return _parameter_labels(draft, part, node)
    call = call_of(part, node, labels_of)
    labels = apply_rule(draft, call, labels_of)
    if is_movement(call.name):
        return labels
    return tree_map(lambda v: draft.result(v) if isinstance(v, Tensor) else v, labels)


def _parameter_labels(draft: Draft, part: Scope, node: fx.Node) -> Any:
    value = node.meta["value"]
    name = part.full_name(str(node.target))
    for_layers = all(_is_for_layer(user, node) for user in node.users)
    if not isinstance(value, Tensor) or for_layers or draft.tensor(name) is None:
        return stays_like(value)
    labels = draft.element_labels(name)
    return labels if labels.ndim == value.ndim else stays(value.ndim)


def _is_for_layer(user: fx.Node, node: fx.Node) -> bool:
    """Whether a layer uses a parameter, or nothing but its type is used."""
    name = name_of(user, None)
    return name in LAYER_RULES or (name in LIKE_FIRST and user.args[:1] != (node,))


def call_of(part: Scope, node: fx.Node, labels_of: dict[fx.Node, Any]) -> Call:
    """Return an operation with what is known of its inputs."""
    module = part.module.get_submodule(str(node.target)) if node.op == "call_module" else None
    owner = part.full_name(node.meta["owner"])
    module_name = part.full_name(str(node.target)) if module is not None else ""
    name = name_of(node, module)
    inputs = [
        pair
        for source in tensor_nodes(node)
        for pair in zip(leaves(labels_of[source]), leaves(source.meta["value"]), strict=True)
    ]
    return Call(
        node=node,
        name=name,
        where=module_name or (f"{owner}: {name}" if owner else name),
        prefix=part.full_name("x")[:-1],
        module=module,
        module_name=module_name,
        inputs=inputs,
        value=node.meta["value"],
    )
