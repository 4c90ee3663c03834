"""What is known of a network's channels while its operations are gone through, one by one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from search_space.channel_graph import UnsupportedOp
from search_space.fakes import leaves
from search_space.labels import STAYS, Labels, collapse, varying_dims
from search_space.reparam import ReparamBlock
from search_space.scopes import Scope
from search_space.tracer import Recording, run_node

MAX_ELEMENT_LABELS = 2**18
"""Parameters used as plain tensors get a label per element up to this size, and stay beyond it."""


@dataclass(frozen=True, slots=True)
class Multiplication:
    """MACs of one layer: ``coefficient`` times the lengths of two label vectors (or constants)."""

    source: str
    coefficient: float
    a: Tensor | int
    b: Tensor | int


@dataclass(frozen=True, slots=True)
class DraftBlock:
    """A reparameterizable block that the network passes through."""

    module: str
    read: Tensor
    written: Tensor
    kernel_area: int
    depthwise: bool


@dataclass(frozen=True)
class Walk:
    """One recording and the labels of every node's result."""

    recording: Recording
    labels_of: dict[fx.Node, Any]
    part: Scope
    is_training: bool = False


@dataclass
class Draft:
    """Labels and costs found so far.

    Attributes:
        root: the network, with fake parameters.
        labels: hands out labels and keeps their ties.
        axes: labels along an axis of a parameter or buffer, by (tensor name, dim).
        elements: labels of every element of a parameter used as a plain tensor, by name.
        writers, readers: layers by the axis along which their weight writes or reads channels.
        block_readers: (block, labels read) by an axis of one of its parameters.
        norms: layer and group norms by the axis of their weight; see ``Layout``.
        sized: labels of the channels of norms that know their number, by module.
        blocks: reparameterizable blocks that were passed through, by name.
        shrinking_convs: grouped convolutions that lose whole groups, so that ``groups`` shrinks.
        unsupported: operations that keep channels whole, in the order they were found.
        macs: multiplications, in order of execution (of the evaluation graph only).
        batch_size, calls: of the scope that is gone through, see :class:`Scope`.
        counts_macs, keeps_results: whether what is gone through adds to ``macs`` and ``results``.
        is_check: whether it only checks a sliced network against the draft of the whole one.
        walks: the recordings gone through, in evaluation mode.
        training_walks: those in training mode, where it is another one.
        results: labels of what each operation other than a move gives, in order of execution;
            ``None`` where no channel can be told from another.
        unit_of_label: unit of every label in the graph last built, -1 where it always stays.
    """

    root: nn.Module
    labels: Labels = field(default_factory=Labels)
    axes: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    elements: dict[str, Tensor] = field(default_factory=dict)
    writers: dict[tuple[str, int], str] = field(default_factory=dict)
    readers: dict[tuple[str, int], str] = field(default_factory=dict)
    block_readers: dict[tuple[str, int], tuple[str, Tensor]] = field(default_factory=dict)
    norms: dict[tuple[str, int], str] = field(default_factory=dict)
    sized: dict[str, Tensor] = field(default_factory=dict)
    blocks: dict[str, DraftBlock] = field(default_factory=dict)
    shrinking_convs: set[str] = field(default_factory=set)
    unsupported: dict[UnsupportedOp, None] = field(default_factory=dict)
    macs: list[Multiplication] = field(default_factory=list)
    batch_size: int = 1
    calls: int = 1
    counts_macs: bool = True
    keeps_results: bool = True
    is_check: ClassVar[bool] = False
    walks: list[Walk] = field(default_factory=list)
    training_walks: list[Walk] = field(default_factory=list)
    results: list[Tensor | None] = field(default_factory=list)
    unit_of_label: Tensor = field(default_factory=Tensor)

    def __post_init__(self) -> None:
        """Learn the names of all tensors; one that has several is known by its first."""
        self._tensors: dict[str, Tensor] = {}
        self._first_name: dict[int, str] = {}
        modules = dict(self.root.named_modules())
        self.block_names = [name for name, m in modules.items() if isinstance(m, ReparamBlock)]
        held = [p for m in modules.values() for p in m.parameters(recurse=False)]
        self._num_owners = Counter(map(id, held))
        every = [
            *self.root.named_parameters(remove_duplicate=False),
            *self.root.named_buffers(remove_duplicate=False),
        ]
        for name, tensor in every:
            self._tensors[name] = tensor
            self._first_name.setdefault(id(tensor), name)

    @property
    def every_walk(self) -> list[Walk]:
        """The recordings in both modes, in the order they were gone through."""
        return [*self.walks, *self.training_walks]

    def tensor(self, name: str) -> Tensor | None:
        """Return the parameter or buffer of that name, if there is one."""
        return self._tensors.get(name)

    def constant(self, name: str) -> Tensor | None:
        """Return a buffer of real numbers, such as the index of a selection."""
        tensor = self._tensors.get(name)
        return None if tensor is None or isinstance(tensor, FakeTensor) else tensor

    def is_shared(self, name: str) -> bool:
        """Whether a parameter has more names than this one."""
        tensor = self._tensors[name]
        return sum(other is tensor for other in self._tensors.values()) > 1

    def has_other_owner(self, parameter: nn.Parameter) -> bool:
        """Whether more modules than one hold it; one with several names is one."""
        return self._num_owners[id(parameter)] > 1

    def axis(self, name: str, dim: int) -> Tensor:
        """Return the labels along an axis of a parameter or buffer, fresh on the first call."""
        tensor = self._tensors[name]
        key = (self._first_name[id(tensor)], dim)
        if key not in self.axes:
            self.axes[key] = self.labels.new((tensor.shape[dim],))
        return self.axes[key]

    def key(self, name: str, dim: int) -> tuple[str, int]:
        """Return how an axis is filed: tensors with several names count once."""
        return self._first_name[id(self._tensors[name])], dim

    def element_labels(self, name: str) -> Tensor:
        """Return the labels of all elements of a parameter or buffer used as a plain tensor."""
        tensor = self._tensors.get(name)
        if tensor is None or tensor.numel() > MAX_ELEMENT_LABELS or tensor.numel() == 0:
            return stays(0 if tensor is None else tensor.ndim)
        name = self._first_name[id(tensor)]
        if tensor.ndim == 1:
            return self.axis(name, 0)
        if name not in self.elements:
            self.elements[name] = self.labels.new(tuple(tensor.shape))
        return self.elements[name]

    def result(self, labels: Tensor) -> Tensor:
        """Return labels of its own, tied to these, for what an operation gives.

        So two results never share a label, even where one weight makes both, and code that lets
        them change places can be told from code that does not.
        """
        own = self.labels.new(tuple(labels.shape)) if len(varying_dims(labels)) == 1 else None
        if own is not None:
            self.labels.tie(own, labels)
        if self.keeps_results:
            self.results.append(own)
        return labels if own is None else own

    def multiply(self, source: str, rows: float, a: Tensor | int, b: Tensor | int) -> None:
        """Add a layer's MACs: ``rows`` for the whole batch, per pair of entries of a and b."""
        if self.counts_macs:
            per_image = rows * self.calls / self.batch_size
            self.macs.append(Multiplication(source, per_image, a, b))

    def pin(self, call: Call, reason: str) -> None:
        """Keep all channels that reach an operation, and say so."""
        reached = [labels for labels, _ in call.inputs]
        if any(bool((labels != STAYS).any()) for labels in reached):
            self.unsupported[UnsupportedOp(call.where, reason)] = None
        for labels in reached:
            self.labels.pin(labels)

    def channels(self, labels: Tensor, dim: int, size: int) -> Tensor:
        """Return the labels along one dimension, tying what changes along any other."""
        first = labels
        for other in varying_dims(labels):
            if other != dim:
                first = first.narrow(other, 0, 1)
        self.labels.tie(labels, first)
        return first.reshape(-1).expand(size) if first.numel() == 1 else first.reshape(-1)


@dataclass(frozen=True)
class Call:
    """One operation of the recorded graph, with what is known of its inputs.

    Attributes:
        node: the operation.
        name: of the function or method without trailing underscore, or class of the module.
        where: for people: module name, with the function where it is one.
        prefix: of names within the scope, ending in a dot where it is not empty.
        module: the module called, if it is one; ``module_name`` its name.
        inputs: (collapsed labels, value) of every tensor that goes in.
        value: what comes out, fake tensors.
    """

    node: fx.Node
    name: str
    where: str
    prefix: str
    module: nn.Module | None
    module_name: str
    inputs: list[tuple[Tensor, Tensor]]
    value: Any

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument by position or name; nodes stay nodes."""
        if position < len(self.node.args):
            return self.node.args[position]
        return self.node.kwargs.get(name, default)

    def setting(self, name: str, position: int, default: Any = None) -> Any:
        """Return a setting of the module, or the function's argument of that name."""
        if self.module is not None:
            return getattr(self.module, name)
        return fx.node.map_arg(self.arg(position, name, default), lambda n: n.meta["value"])

    @property
    def first(self) -> tuple[Tensor, Tensor]:
        """Labels and value of the first tensor."""
        return self.inputs[0]


def stays(ndim: int) -> Tensor:
    """Return collapsed labels of a tensor that always stays."""
    return torch.full((1,) * ndim, STAYS)


def stays_like(value: Any) -> Any:
    """Return such labels in the place of every tensor in a nested value."""
    return tree_map(lambda v: stays(v.ndim) if isinstance(v, Tensor) else v, value)


def tensor_nodes(node: fx.Node) -> list[fx.Node]:
    """Return the nodes among a node's arguments, in order, repeated ones too."""
    found: list[fx.Node] = []

    def note(argument: fx.Node) -> fx.Node:
        found.append(argument)
        return argument

    fx.node.map_arg((node.args, node.kwargs), note)
    return found


def full_labels(labels: Any, value: Any) -> Any:
    """Return labels of full size in the place of tensors, other values as they are."""
    if not leaves(value):
        return value
    return tree_map(
        lambda label, v: label.expand(v.shape) if isinstance(v, Tensor) else v, labels, value
    )


def collapsed(labels: Any) -> Any:
    """Collapse every label tensor in a nested value."""
    return tree_map(lambda v: collapse(v) if isinstance(v, Tensor) else v, labels)


def measured_macs(call: Call) -> float:
    """Multiply-adds of one operation by torch's own counter (which counts two per MAC)."""
    args, kwargs = fx.node.map_arg((call.node.args, call.node.kwargs), lambda n: n.meta["value"])
    with FlopCounterMode(display=False) as counter:
        run_node(call.node, args, kwargs, call.module)
    return float(counter.get_total_flops()) / 2


def positions(value: Tensor, channels: int) -> float:
    """Return the elements per channel of a tensor."""
    return math.prod(value.shape) / channels


def owner_of(tensor_name: str) -> str:
    """Return the module a parameter belongs to."""
    return tensor_name.rpartition(".")[0]


def layer_of(weight: str) -> str:
    """Return the name of the layer a weight makes: its module's, or its own if that has more."""
    return weight.removesuffix(".weight")


def align(labels: Sequence[Tensor], ndim: int) -> list[Tensor]:
    """Put dimensions of size 1 in front until all have ``ndim``."""
    return [label.reshape((1,) * (ndim - label.ndim) + label.shape) for label in labels]
