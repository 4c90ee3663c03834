"""The operations of a recording that are no moves, as a sliced network must repeat them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from search_space.channel_rules import is_elementwise, is_movement
from search_space.draft import tensor_nodes
from search_space.in_place import is_in_place
from search_space.operation_names import LIKE_FIRST, NEW, name_of
from search_space.real_constants import real_number
from search_space.tracer import Recording


@dataclass(frozen=True)
class Sum:
    """An operation that is no move, or a tensor that code made while it was recorded.

    Attributes:
        name: of the function or the module's class.
        constants: its arguments that are no tensors; ``None`` where a module has them.
        number: what a tensor made while recording holds, where that is known.
        operands: sizes of its operands, one after the other; ``None`` where channels may go.
        sizes: the same of its result.
        repeated: (operand, dimension) that it repeats.
        owner: the module whose code it is.
        place: the module that does it: the one called, or the owner.
    """

    name: str
    constants: Any
    number: Tensor | None
    operands: tuple[int | None, ...]
    sizes: tuple[int | None, ...]
    repeated: frozenset[tuple[int, int]]
    owner: str
    place: str

    def is_like(self, whole: Sum) -> bool:
        """Whether it is the same in the sliced network; a width of 1 needs no repeating.

        A layer may be of another class there, whose code is a function.
        """
        is_same_kind = (self.constants is None) == (whole.constants is None)
        return (
            (self.name, self.place) == (whole.name, whole.place)
            and (not is_same_kind or self.constants == whole.constants)
            and (not is_same_kind or _fit(self.operands, whole.operands))
            and _fit(self.sizes, whole.sizes)
            and _equal(self.number, whole.number)
            and self.repeated <= whole.repeated
        )


def first_difference(whole: list[Sum], sliced: list[Sum]) -> str | None:
    """Return the module in whose code two networks part ways, or ``None``."""
    for before, after in itertools.zip_longest(whole, sliced):
        if before is None or after is None or not after.is_like(before):
            owners = [entry.owner for entry in (before, after) if entry is not None]
            # The innermost: after a branch not taken, the next step is of the code around it.
            return max(owners, key=len)
    return None


def sums_of(recording: Recording, module: nn.Module, labels_of: Mapping[fx.Node, Any]) -> list[Sum]:
    """Return every operation that the output needs and that is no move, in order.

    Args:
        recording: of the module.
        module: with the submodules that it calls.
        labels_of: labels of the nodes' results; of nodes that are missing, every size counts.
    """
    found = []
    for node in _needed(recording, module):
        called = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        name = name_of(node, called)
        is_constant = node.op == "get_attr" and _is_made_on_the_way(node, module)
        if not is_constant and (not node.op.startswith("call_") or is_movement(name)):
            continue
        owner = node.meta["owner"]
        operands = [source for source in tensor_nodes(node) if source.op != "get_attr"]
        found.append(
            Sum(
                name="constant" if is_constant else name.lower(),
                constants=None if is_constant else _constants(node, name),
                number=real_number(node.meta["value"]) if is_constant else None,
                operands=tuple(size for n in operands for size in _sizes(n, labels_of)),
                sizes=tuple(_sizes(node, labels_of)),
                repeated=_repeated(node) if is_elementwise(name) else frozenset(),
                owner=owner,
                place=owner if called is None else str(node.target),
            )
        )
    return found


def _needed(recording: Recording, module: nn.Module) -> list[fx.Node]:
    needed: dict[fx.Node, None] = {}
    for node in reversed(recording.graph.nodes):
        called = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        is_needed = node.op == "output" or is_in_place(node, called)
        if is_needed or any(user in needed for user in node.users):
            needed[node] = None
    return [*needed][::-1]


def _is_made_on_the_way(node: fx.Node, module: nn.Module) -> bool:
    """Whether a tensor is neither parameter nor buffer: code made it, now or before."""
    path, _, leaf = str(node.target).rpartition(".")
    owner = module.get_submodule(path)
    return isinstance(node.meta["value"], Tensor) and not (
        leaf in owner._parameters or leaf in owner._buffers
    )


def _constants(node: fx.Node, name: str) -> Any:
    """Arguments that are no tensors, but for shapes, which are compared as those of results.

    ``None`` where a module is called.
    """
    if node.op == "call_module":
        return None
    given, named = fx.node.map_arg((node.args, node.kwargs), lambda _: None)
    args = list(given)
    if name == "group_norm" and args[1:2] == [tensor_nodes(node)[0].meta["value"].shape[1]]:
        args[1] = "as many as channels"
    place, key = _SHAPES.get(re.sub("[123]d$", "", name), (len(args), ""))
    del args[place : place + 1]
    if name in NEW - {"new_full", "new_tensor"}:
        del args[1:]
    return args, {k: value for k, value in named.items() if k != key}


_SHAPES = {
    "conv": (6, "groups"),
    "conv_transpose": (6, "groups"),
    "layer_norm": (1, "normalized_shape"),
    "rms_norm": (1, "normalized_shape"),
    "pad": (1, "pad"),
    "new_full": (1, "size"),
    **dict.fromkeys(["new_empty", "new_ones", "new_zeros"], (1, "size")),
}
"""Functions by the place and name of the argument that is a number of channels, or a shape."""


def _sizes(node: fx.Node, labels_of: Mapping[fx.Node, Any]) -> list[int | None]:
    """Sizes of a node's result that must stay: where no channels lie."""
    value, labels = node.meta["value"], labels_of.get(node)
    if not isinstance(value, Tensor):
        return []
    sizes: list[int | None] = list(value.shape)
    if isinstance(labels, Tensor):
        sizes = [None if labels.shape[d] > 1 else size for d, size in enumerate(sizes)]
        if sizes and _makes_filters(node):
            sizes[0] = None
    return sizes


def _fit(sliced: tuple[int | None, ...], whole: tuple[int | None, ...]) -> bool:
    """Whether sizes are the same where they must be."""
    return len(sliced) == len(whole) and all(
        theirs in (None, ours) for ours, theirs in zip(sliced, whole, strict=True)
    )


def _makes_filters(node: fx.Node) -> bool:
    """Whether a tensor only becomes the weight of convolutions, one filter for each channel."""
    return bool(node.users) and all(_takes_filters(user, node) for user in node.users)


def _takes_filters(user: fx.Node, source: fx.Node) -> bool:
    name = name_of(user, None)
    if re.fullmatch("conv[123]d", name):
        return user.args[:1] != (source,)
    is_of_each = is_movement(name) or is_elementwise(name) or name in LIKE_FIRST
    return is_of_each and _makes_filters(user)


def _equal(ours: Tensor | None, whole: Tensor | None) -> bool:
    """Whether two tensors hold the same numbers; of filters, each the same ones."""
    if ours is None or whole is None:
        return ours is whole
    if ours.shape != whole.shape:
        if not (len(whole) and len(ours)):
            return False
        parts = [*whole.unbind(0), *ours.unbind(0)]
        return all(_equal(part, parts[0]) for part in parts)
    return bool(((ours == whole) | (ours.isnan() & whole.isnan())).all())


def _repeated(node: fx.Node) -> frozenset[tuple[int, int]]:
    """Operands of an operation and the dimensions, from behind, along which they are broadcast."""
    shape = getattr(node.meta["value"], "shape", ())
    return frozenset(_broadcast([source.meta["value"] for source in tensor_nodes(node)], shape))


def _broadcast(values: list[Any], shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    for k, value in enumerate(values):
        for d in range(-len(shape), 0):
            if (
                isinstance(value, Tensor)
                and shape[d] > 1
                and (value.ndim < -d or value.shape[d] == 1)
            ):
                yield k, d
