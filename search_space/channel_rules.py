"""What each operation does to channels: one rule per kind, and tables from operations to kinds.

A rule gets the draft and the call and returns the labels of what comes out. Operations are known
by the name of the function, the method, or the module's class.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from search_space.channel_graph import UnsupportedOp
from search_space.draft import (
    Call,
    Draft,
    align,
    collapsed,
    full_labels,
    measured_macs,
    stays,
    stays_like,
    tensor_nodes,
)
from search_space.fakes import leaves
from search_space.in_place import written_in_part
from search_space.labels import broadcast, varying_dims
from search_space.layer_rules import LAYER_RULES, block_rule
from search_space.operation_names import (
    ALONG_ONE_DIM,
    ELEMENTWISE,
    LIKE_FIRST,
    MOVEMENT,
    NEW,
    REDUCING,
    SPATIAL,
    name_of,
)
from search_space.reparam import ReparamBlock
from search_space.tracer import run_node

Rule = Callable[[Draft, Call, dict[fx.Node, Any]], Any]


def apply_rule(draft: Draft, call: Call, labels_of: dict[fx.Node, Any]) -> Any:
    """Return the labels of a call's result, tying and pinning in the draft what must be."""
    if isinstance(call.module, ReparamBlock):
        return block_rule(draft, call)
    if call.name == "getattr" and not isinstance(call.setting("object", 0), Tensor):
        return getattr(fx.node.map_arg(call.arg(0, "object"), labels_of.get), call.arg(1, "name"))
    if not call.inputs and call.module is None:
        return stays_like(call.value)
    if isinstance(call.node.target, type):
        return _output_record(draft, call, labels_of)
    if not isinstance(call.value, Tensor) and call.name not in _CONTAINER_RULES:
        return _unknown(draft, call, labels_of) if leaves(call.value) else call.value
    rule = _RULES.get(call.name) or _RULES.get(re.sub("[123]d$", "", call.name))
    result = None if rule is None else rule(draft, call, labels_of)
    return _unknown(draft, call, labels_of) if result is None else result


def _output_record(draft: Draft, call: Call, labels_of: dict[fx.Node, Any]) -> Any:
    """A named tuple or data class of outputs."""
    if not leaves(call.value):  # opaque: cannot be followed further
        draft.pin(call, f"{call.name} holds them")
    args, kwargs = fx.node.map_arg((call.node.args, call.node.kwargs), labels_of.get)
    return call.node.target(*args, **kwargs)  # type: ignore[operator]


def _unknown(draft: Draft, call: Call, labels_of: dict[fx.Node, Any]) -> Any:
    # All that is recorded of a module of torch.jit.script is that its forward was called.
    reason = f"no channel rule for {'scripted modules' if call.name == 'forward' else call.name}"
    if call.name in LAYER_RULES:  # its own channels stay as well
        reason += " with such weights"
        draft.unsupported[UnsupportedOp(call.where, reason)] = None
    draft.pin(call, reason)
    _pin_written_in_part(draft, call, labels_of)
    _pin_shared_weights(draft, call)
    if draft.counts_macs and (macs := measured_macs(call)):
        draft.multiply(call.where, macs, 1, 1)
    return stays_like(call.value)


def _pin_shared_weights(draft: Draft, call: Call) -> None:
    """What an unknown module holds stays whole, also where a known one shares it."""
    if call.module is None:
        return
    for key, parameter in call.module.named_parameters(recurse=False):
        name = f"{call.module_name}.{key}".removeprefix(".")
        if draft.is_shared(name):
            for dim in range(parameter.ndim):
                draft.labels.pin(draft.axis(name, dim))


def _elementwise(draft: Draft, call: Call, labels_of: dict[fx.Node, Any]) -> Any:
    """Output channel c depends on channel c of every input: tie them, position by position."""
    _pin_written_in_part(draft, call, labels_of)
    ndim, shape = call.value.ndim, call.value.shape
    operands = align([labels for labels, _ in call.inputs], ndim)
    sizes = [(1,) * (ndim - value.ndim) + tuple(value.shape) for _, value in call.inputs]
    joined: list[Tensor] = []
    for k, labels in enumerate(operands):
        others = [o for j, o in enumerate(operands) if j != k]
        # A map that is broadcast over others' channels is no channel of theirs: it stays.
        spread = [d for d in range(ndim) if sizes[k][d] == 1 and shape[d] > 1]
        if any(o.shape[d] > 1 for o in others for d in spread):
            draft.labels.pin(labels)
        else:
            joined.append(labels)
            _note_made_here(draft, call, k, others)
    result = joined[0] if joined else stays(ndim)
    for labels in joined[1:]:
        draft.labels.tie(result, labels)
        result = broadcast(result, labels)[0]
    return result


def _note_made_here(draft: Draft, call: Call, k: int, others: list[Tensor]) -> None:
    """Say so where an operand that code makes by itself has an entry for each channel."""
    sources, shape = tensor_nodes(call.node), call.inputs[k][1].shape
    if len(sources) != len(call.inputs):
        return
    source = sources[k]
    while name_of(source, None) in MOVEMENT | LIKE_FIRST and tensor_nodes(source):
        source = tensor_nodes(source)[0]
    is_known = draft.tensor(f"{call.prefix}{source.target}") is not None
    is_made = source.op == "get_attr" and not is_known
    across = [d for d in range(-len(shape), 0) if shape[d] > 1]
    if (is_made or name_of(source, None) in NEW) and any(
        o.shape[d] > 1 for o in others for d in across
    ):
        reason = f"{call.name} with a tensor that its code makes, one entry per channel"
        draft.unsupported[UnsupportedOp(call.where, reason)] = None


def _pin_written_in_part(draft: Draft, call: Call, labels_of: dict[fx.Node, Any]) -> None:
    """Keep the channels of a tensor of which an operation changes a part that others see."""
    for other in written_in_part(call):
        draft.pin(call, f"{call.name} changes a part of a tensor that is used again")
        draft.labels.pin(labels_of[other])


def is_movement(name: str) -> bool:
    """Whether the operation of that name only moves data."""
    return _RULES.get(name) is _movement


def is_elementwise(name: str) -> bool:
    """Whether the operation of that name works on each element by itself."""
    return _RULES.get(name) is _elementwise


def run_movement(
    node: fx.Node, value_of: Callable[[fx.Node], Any], module: nn.Module | None = None
) -> Any:
    """Run an operation that moves data on other values than its own.

    Raises:
        RuntimeError, TypeError, IndexError: it cannot be run on these.
    """
    args: Any
    kwargs: Any
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), value_of)
    if node.op == "call_method" and node.target == "view":
        # Labels are expanded, so what is a view of the tensor may be a copy of its labels.
        return args[0].reshape(*args[1:], **kwargs)
    return run_node(node, args, kwargs, module)


def _movement(draft: Draft, call: Call, labels_of: dict[fx.Node, Any]) -> Any:
    """Elements only change places: do the same to their labels."""

    def full(node: fx.Node) -> Any:
        constant = draft.constant(f"{call.prefix}{node.target}") if node.op == "get_attr" else None
        value = node.meta["value"]
        if constant is not None:  # the index of a selection
            return constant
        if (
            value is not call.first[1]
            and isinstance(value, Tensor)
            and not value.is_floating_point()
        ):
            raise _UnknownIndexError
        return full_labels(labels_of[node], value)

    try:
        return collapsed(run_movement(call.node, full, call.module))
    except (RuntimeError, TypeError, IndexError, NotImplementedError, _UnknownIndexError):
        return None


class _UnknownIndexError(Exception):
    """Which elements are selected is known only when the network runs."""


def _roll(_: Draft, call: Call, __: dict[fx.Node, Any]) -> Any:
    """Pixels roll as they are; which channel comes next depends on which are left."""
    labels, value = call.first
    dims = call.setting("dims", 2)
    rolled = range(value.ndim) if dims is None else [dims] if isinstance(dims, int) else dims
    if {int(d) % value.ndim for d in rolled} & set(varying_dims(labels)):
        return None
    return labels


def _spatial(draft: Draft, call: Call, _: dict[fx.Node, Any]) -> Any:
    """Works on height and width, each channel by itself (the first tensor's)."""
    labels, value = call.first
    digits = [int(c) for c in call.name if c.isdigit()]
    dim = value.ndim - digits[-1] - 1 if digits else 1
    if value.ndim < 3 or call.value.shape[dim] != value.shape[dim]:
        return None
    vector = draft.channels(labels, dim, value.shape[dim])
    shape = [1] * call.value.ndim
    shape[dim] = -1
    return collapsed(vector.reshape(shape))


def _padding(_: Draft, call: Call, __: dict[fx.Node, Any]) -> Any:
    """New elements around the old ones; where they become channels, those stay."""
    labels, _value = call.first
    amounts = [int(a) for a in call.setting("padding" if call.module else "pad", 1)]
    mode = "constant" if call.module else call.setting("mode", 2, "constant")
    for k in range(0, len(amounts), 2):
        dim = labels.ndim - 1 - k // 2
        before, after = amounts[k], amounts[k + 1]
        if labels.shape[dim] > 1 and (before or after):
            if mode != "constant" or min(before, after) < 0:
                return None
            edges = [stays(labels.ndim).expand(_resized(labels, dim, n)) for n in (before, after)]
            labels = torch.cat([edges[0], labels, edges[1]], dim)
    return labels


def _resized(labels: Tensor, dim: int, size: int) -> list[int]:
    return [size if d == dim else s for d, s in enumerate(labels.shape)]


def _reducing(draft: Draft, call: Call, _: dict[fx.Node, Any]) -> Any:
    """Sums over some dimensions; over channels it needs them all."""
    labels, value = call.first
    if len(call.inputs) > 1:  # torch.max(a, b)
        return _elementwise(draft, call, _) if isinstance(call.value, Tensor) else None
    dims = call.setting("dim", 2 if call.name == "norm" else 1)
    is_left_out = dims is None or isinstance(dims, bool)  # x.std(False): whether unbiased
    dims = range(value.ndim) if is_left_out else [dims] if isinstance(dims, int) else dims
    reduced = {int(d) % value.ndim for d in dims}
    varying = set(varying_dims(labels))
    if varying - reduced:  # one of several tensors stacked, half of the channels: as if added up
        first = labels
        for dim in varying & reduced:
            first = first.narrow(dim, 0, 1)
        draft.labels.tie(labels, first)
        labels = first
    elif varying:
        draft.pin(call, f"{call.name} over channels needs all of them")
        return stays_like(call.value)
    out = leaves(call.value)[0]
    if out.ndim != value.ndim:
        labels = labels.reshape([s for d, s in enumerate(labels.shape) if d not in reduced])
    return tree_map(lambda _v: labels, call.value)


def _along_one_dim(draft: Draft, call: Call, _: dict[fx.Node, Any]) -> Any:
    """Elements of one dimension depend on each other; those of channels need all of them."""
    labels, value = call.first
    position = 2 if call.name == "normalize" else 1
    dim = 1 if call.name == "Softmax2d" else call.setting("dim", position, 1)
    if dim is None or int(dim) % value.ndim in varying_dims(labels):
        draft.pin(call, f"{call.name} over channels needs all of them")
        return stays_like(call.value)
    return labels


def _like_first(_: Draft, call: Call, __: dict[fx.Node, Any]) -> Any:
    """The first argument in another type."""
    return call.first[0]


def _new(_: Draft, call: Call, __: dict[fx.Node, Any]) -> Any:
    """A tensor that holds nothing of its argument."""
    return stays_like(call.value)


def _glu(draft: Draft, call: Call, _: dict[fx.Node, Any]) -> Any:
    """One half of a dimension times the sigmoid of the other."""
    labels, value = call.first
    dim = int(call.setting("dim", 1, -1)) % value.ndim
    if labels.shape[dim] == 1:
        return labels
    first, second = labels.chunk(2, dim)
    draft.labels.tie(first, second)
    return collapsed(first)


_RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(LIKE_FIRST, _like_first),
    **dict.fromkeys(MOVEMENT, _movement),
    **dict.fromkeys(SPATIAL, _spatial),
    **dict.fromkeys(REDUCING, _reducing),
    **dict.fromkeys(ALONG_ONE_DIM, _along_one_dim),
    **dict.fromkeys(NEW, _new),
    **dict.fromkeys(["pad", "ZeroPad", "ConstantPad"], _padding),
    **dict.fromkeys(["glu", "GLU"], _glu),
    "roll": _roll,
    **LAYER_RULES,
}
_CONTAINER_RULES = MOVEMENT | REDUCING
