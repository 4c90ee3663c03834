"""What a network runs: its operators in deploy form, each with the widths its time depends on.

Every node of the evaluation-mode graph that gives a tensor is an operator, views and dropout too:
they cost what calling them costs. A reparameterizable block is one operator, the convolution and
ReLU it becomes. An operator depends on at most two widths: of the channels it reads and of those
it writes. Where all its tensors change together (norms, activations, sums, depth-wise
convolutions) only the second is used; a concatenation goes by the width of its result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from search_space.costs import Width


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that goes into an operator.

    Attributes:
        shape: in the supernet, for one image.
        dtype: its type; floating-point tensors are made in the type of the measurement.
        resized: (dim, side) of the dims that change with a width; side 0 is read, 1 written.
        order: dims from the outermost to the innermost in memory.
        is_batched: the first dim grows with the batch.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    resized: tuple[tuple[int, int], ...]
    order: tuple[int, ...]
    is_batched: bool

    def shape_at(self, shares: tuple[Fraction, Fraction], batch_size: int) -> tuple[int, ...]:
        """Return the shape with these shares (of the supernet) of the read and written channels."""
        shape = list(self.shape)
        for dim, side in self.resized:
            shape[dim] = max(1, round(shape[dim] * shares[side]))
        if self.is_batched:
            shape[0] *= batch_size
        return tuple(shape)

    def __str__(self) -> str:
        sides = dict(self.resized)
        dims = [
            f"{size}{'rw'[sides[d]] if d in sides else ''}" for d, size in enumerate(self.shape)
        ]
        if self.is_batched:
            dims[0] += "n"
        order = "" if self.order == tuple(range(len(dims))) else f" order {self.order}"
        return f"{str(self.dtype).removeprefix('torch.')}[{', '.join(dims)}]{order}"


@dataclass(frozen=True, slots=True, eq=False)
class Operator:
    """One operation of a network.

    Attributes:
        name: for people: the module it is or belongs to, and the function.
        signature: what runs, with all settings and shapes in the supernet; equal operators of any
            networks have equal signatures and take the same time.
        read, written: width of the channels on either side, ``Width(1)`` where there is nothing
            to search or, for ``read``, where they are those written.
        full: (read, written) channels in the supernet.
        step: (read, written) least number by which the channels can change.
        target: a module without its tensors, a function, or the name of a method.
        arguments: (args, kwargs) with a :class:`TensorSpec` in the place of every tensor.
        tensors: parameters and buffers of the module, by name.
        has_group_per_unit: a grouped convolution whose ``groups`` shrink with its channels.
    """

    name: str
    signature: str
    read: Width
    written: Width
    full: tuple[int, int]
    step: tuple[int, int]
    target: Any
    arguments: tuple[Any, Any]
    tensors: tuple[tuple[str, TensorSpec], ...] = ()
    has_group_per_unit: bool = False


@dataclass(frozen=True, slots=True)
class ScopeInputs:
    """What reaches a searched part (by name, empty for the whole network): positional arguments
    with a :class:`TensorSpec` in the place of every tensor."""

    scope: str
    args: tuple[Any, ...]


def network_signature(operators: Iterable[Operator]) -> str:
    """Return a short hash of what a network runs, in order."""
    text = "\n".join(operator.signature for operator in operators)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def call_text(target: Any, arguments: Any, tensors: Iterable[tuple[str, TensorSpec]]) -> str:
    """Say what is called: the signature of an operator, but for how its channels change."""
    if isinstance(target, nn.Module):
        settings = [
            f"{name}.{key}".strip(".") + f"={value!r}"
            for name, module in target.named_modules()
            for key, value in vars(module).items()
            if not key.startswith("_") and isinstance(value, int | float | str | tuple | list)
        ]
        kind, parts = type(target).__name__, [s for s in settings if "training=" not in s]
    else:
        where = "Tensor" if isinstance(target, str) else getattr(target, "__module__", "") or ""
        kind, parts = f"{where}.{getattr(target, '__name__', target)}".strip("."), []
    args, kwargs = arguments
    parts += [_text(arg) for arg in args]
    parts += [f"{key}={_text(value)}" for key, value in kwargs.items()]
    parts += [f"{name}={spec}" for name, spec in tensors]
    return f"{kind}({', '.join(parts)})"


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_text(v) for v in value)}]"
    return str(value) if isinstance(value, TensorSpec) else repr(value)
