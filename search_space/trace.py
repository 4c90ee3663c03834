"""From any torch.fx-traceable network to its channel graph.

The network is recorded once in evaluation and once in training mode (auxiliary heads run only in
training), with fake tensors, so that nothing is computed. Labels then follow the channels through
the operations; what ties channels together, and what needs all of them, follows from the rules in
:mod:`search_space.channel_rules`. At last a sliced copy is recorded and followed as well: a
module whose own code counts on removed channels gets new code, or keeps them all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from search_space.channel_graph import ChannelGraph, UnsupportedOp
from search_space.draft import Draft, Walk, tensor_nodes
from search_space.fakes import UntraceableError, default_device, fake_copy, leaves
from search_space.graph_building import build_graph
from search_space.operation_names import COUNTS_ON_WIDTHS, name_of
from search_space.own_code import RelayoutDraft, plan_relayout
from search_space.refusals import refuse_wrapped
from search_space.scopes import find_scopes
from search_space.tracer import Recording, record
from search_space.verification import find_misplaced, modules_counting_on_widths
from search_space.walk import walk

Example = Tensor | tuple[Any, ...]


def trace_channels(
    model: nn.Module,
    example_inputs: Example,
    *,
    scope: str | Sequence[str] | None = None,
    pinned: Sequence[str] = (),
    calls: Mapping[str, int] | None = None,
) -> ChannelGraph:
    """Find the channel groups and costs of a network; the network is left untouched.

    Args:
        model: any network that torch.fx can record: its control flow may depend on shapes, not
            on the values of tensors.
        example_inputs: one batch (N, C, H, W), or a tuple of positional arguments; only shapes
            count, nothing is computed. Costs are per image.
        scope: names of submodules to search in, for networks that cannot be recorded as a whole
            or of which only a part shall change. Channels that cross the border of a scope stay,
            MACs and activations are those of the scopes. A model whose scopes lie behind code
            that depends on values (detectors) is run once on ``example_inputs`` to see what
            reaches them; one on the meta device as if all its weights were zero.
        pinned: names of groups, or of modules whose channels (and their submodules') shall stay;
            of a module that makes no searchable channels (a norm, a depth-wise or the last layer),
            those that it is given.
        calls: samples that reach a scope per image, by its name, where that is not one: a
            detector's heads run once per region. Costs count as many; how many the example
            happens to bring there does not matter.

    Raises:
        ValueError: the network or a scope cannot be recorded, a scope, a pinned name or a name
            in ``calls`` does not exist, or nothing is searchable; one sentence that says why.
    """
    scopes = [scope] if isinstance(scope, str) else list(scope or ())
    refuse_wrapped(model)
    args = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    # Labels are numbers, also for a caller who builds networks on "meta".
    with default_device(torch.device("cpu")):
        return _trace(model, args, scopes, pinned, calls or {})


def _trace(
    model: nn.Module,
    args: tuple[Any, ...],
    scopes: Sequence[str],
    pinned: Sequence[str],
    calls: Mapping[str, int],
) -> ChannelGraph:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    clone = fake_copy(model, mode)
    draft = Draft(clone)
    for part in find_scopes(model, clone, args, scopes, calls, mode):
        draft.walks.append(walk(draft, part, record(part.module.eval(), part.args, mode)))
    for found in draft.walks:
        _walk_in_training(draft, found, mode)
    relayouts: dict[str, RelayoutDraft] = {}
    tried: set[str] = set()
    while True:
        graph = build_graph(draft, type(model).__name__, pinned, scopes, relayouts)
        misplaced = find_misplaced(model, draft, graph, mode)
        if misplaced is None:
            return graph
        if misplaced in relayouts:  # new code does not help its class: see how it fares without
            kind = type(clone.get_submodule(misplaced))
            alike = [name for name in relayouts if type(clone.get_submodule(name)) is kind]
            for name in alike:
                del relayouts[name]
            continue
        if not _give_new_code(draft, misplaced, relayouts, tried, mode):
            _pin_own_channels(draft, misplaced)


def _walk_in_training(draft: Draft, found: Walk, mode: FakeTensorMode) -> None:
    """Go through a scope in training mode too, where its code is another then."""
    part = found.part
    try:
        recording = record(part.module.train(), part.training_args, mode)
    except UntraceableError as error:
        unseen = None if _ONE_VALUE in str(error) else _left_out(found)
        if unseen is not None:
            message = f"{error} (in training mode, which counts as evaluation leaves out {unseen})"
            raise UntraceableError(message, error.module) from error
        return
    finally:
        part.module.eval()
    if _steps(recording) != _steps(found.recording):
        draft.counts_macs = False
        training = walk(draft, part, recording)
        draft.counts_macs = True
        draft.training_walks.append(dataclasses.replace(training, is_training=True))


_ONE_VALUE = "Expected more than 1 value per channel when training"
"""What batch-norm says where the example images are too small for training, not for evaluation."""


def _left_out(found: Walk) -> str | None:
    """Return a parameter that the forward pass in evaluation mode does not use, or ``None``."""
    module, used = found.part.module, set[int]()
    for node in found.recording.graph.nodes:
        if node.op == "get_attr":
            used.add(id(node.meta["value"]))
        elif node.op == "call_module":
            used.update(map(id, module.get_submodule(str(node.target)).parameters()))
    names = (name for name, parameter in module.named_parameters() if id(parameter) not in used)
    return next(map(found.part.full_name, names), None)


def _steps(recording: Recording) -> list[tuple[Any, ...]]:
    """Return what tells one forward pass from another; whether one is in training does not."""

    def named(value: Any) -> Any:
        return None if isinstance(value, bool) else repr(value)

    return [
        (node.target, *map(named, tree_leaves((node.args, node.kwargs))))
        for node in recording.graph.nodes
    ]


def _give_new_code(
    draft: Draft,
    misplaced: str,
    relayouts: dict[str, RelayoutDraft],
    tried: set[str],
    mode: FakeTensorMode,
) -> bool:
    """Plan new code for the module, one around it or one before it, and all of its class."""
    # A module may also pass on channels in wrong places, and another one stumble over them.
    for name in [*_with_ancestors(misplaced), *modules_counting_on_widths(draft)]:
        if name in tried:
            continue
        kind = type(draft.root.get_submodule(name))
        alike = [n for n, m in draft.root.named_modules() if type(m) is kind and n not in tried]
        tried.update(alike)
        plans = {other: plan_relayout(draft, other, mode) for other in alike}
        planned = {other: plan for other, plan in plans.items() if plan is not None}
        if name in planned:
            relayouts.update(planned)
            return True
    return False


def _pin_own_channels(draft: Draft, misplaced: str) -> None:
    """Keep the channels whose number the code of the module's class may count on.

    Where there are none, it is all that its code touches; where that is nothing, it is the code
    of the next module around it.
    """
    classes = draft.labels.classes()
    for name in _with_ancestors(misplaced):
        kind = type(draft.root.get_submodule(name))
        for steps in (COUNTS_ON_WIDTHS, None):
            touched = _own_labels(draft, kind, steps)
            if any(bool(classes[labels].any()) for labels in touched.get(name, [])):
                _pin_owners(draft, touched)
                return
    for labels in leaves([found.labels_of for found in draft.every_walk]):
        draft.labels.pin(labels)


def _pin_owners(draft: Draft, touched: dict[str, list[Tensor]]) -> None:
    classes = draft.labels.classes()
    for owner, found in touched.items():
        if any(bool(classes[labels].any()) for labels in found):
            where = owner or type(draft.root).__name__
            reason = "its code counts on channels that a search could remove"
            draft.unsupported[UnsupportedOp(where, reason)] = None
        for labels in found:
            draft.labels.pin(labels)


def _own_labels(
    draft: Draft, kind: type[nn.Module], steps: frozenset[str] | None
) -> dict[str, list[Tensor]]:
    """Labels of what the code of a class of modules handles itself, by module."""
    owners = {name for name, module in draft.root.named_modules() if type(module) is kind}
    touched: dict[str, list[Tensor]] = {}
    for found in draft.every_walk:
        for node in found.recording.graph.nodes:
            owner = found.part.full_name(node.meta["owner"])
            if owner in owners and (steps is None or name_of(node, None) in steps):
                around = [found.labels_of[source] for source in [node, *tensor_nodes(node)]]
                touched.setdefault(owner, []).extend(leaves(around))
    return touched


def _with_ancestors(name: str) -> list[str]:
    parts = name.split(".") if name else []
    return [".".join(parts[:k]) for k in range(len(parts), -1, -1)]
