"""The parts of a network that are searched, and what reaches them."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from search_space.fakes import (
    UntraceableError,
    device_of,
    fake_copy,
    fake_inputs,
    first_line,
    leaves,
    quiet,
)


@dataclass(frozen=True)
class Scope:
    """A module to search in.

    Attributes:
        name: within the network; empty for the whole.
        module: with fake parameters.
        args: fake positional arguments that reach it, a batch of one where all agree on it.
        training_args: the same for two images: batch-norm cannot be trained on one.
        batch_size: N of ``args``.
        calls: how many samples reach it per image, such as the regions of a detector's heads.
    """

    name: str
    module: nn.Module
    args: list[Any]
    training_args: list[Any]
    batch_size: int
    calls: int = 1

    def full_name(self, name: str) -> str:
        """Return the name within the network of something named within the scope."""
        return ".".join(part for part in (self.name, name) if part)


class _AllReachedError(Exception):
    """Every scope has been called: the rest of the forward pass is of no interest."""


def find_scopes(
    model: nn.Module,
    clone: nn.Module,
    args: Sequence[Any],
    names: Sequence[str],
    calls: Mapping[str, int],
    mode: FakeTensorMode,
) -> list[Scope]:
    """Return the scopes of those names with what reaches them; without names, the whole network.

    Raises:
        ValueError: a scope does not exist, contains another, or is not called, or ``calls`` does
            not fit the names.
    """
    _check_calls(calls, names)
    device = device_of(model)
    inputs = fake_inputs(args, mode, device)
    if not names:
        return [_scope("", clone, inputs, mode)]
    _check_names(model, names)
    # What a forward pass leaves behind (cached anchors, say) must not stay in the clone.
    reached = _run(fake_copy(model, mode), inputs, names, mode)
    missing = [name for name in names if name not in reached]
    if missing:  # behind code that depends on values: one real pass shows what gets there
        real = _run(_real_copy(model), args, names, None)
        missing = [name for name in names if name not in real]
        if missing:
            raise UntraceableError(
                f"scope {missing[0]!r} is not called in a forward pass of {type(model).__name__} "
                "on the example inputs"
            )
        reached = {name: fake_inputs(found, mode, device) for name, found in real.items()}
    scopes = [_scope(name, clone.get_submodule(name), reached[name], mode) for name in names]
    return [dataclasses.replace(scope, calls=calls.get(scope.name, 1)) for scope in scopes]


def _check_names(model: nn.Module, names: Sequence[str]) -> None:
    known = [name for name, _ in model.named_modules() if name]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "see named_modules()"
            raise ValueError(f"scope {name!r} does not exist in {type(model).__name__}; {hint}")
        inside = [other for other in names if other.startswith(f"{name}.")]
        if inside or names.count(name) > 1:
            other = inside[0] if inside else name
            raise ValueError(f"scope {name!r} contains scope {other!r}; name only one of them")


def _check_calls(calls: Mapping[str, int], names: Sequence[str]) -> None:
    for name, count in calls.items():
        if name not in names:
            known = ", ".join(names) or "none, the whole network is searched"
            raise ValueError(f"calls names {name!r}, which is no scope; known: {known}")
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"calls of scope {name} is {count!r}; it must be a whole number >= 1")


def _real_copy(model: nn.Module) -> nn.Module:
    """Return a copy to run in evaluation mode; one of a network on the meta device is all zero."""
    real = copy.deepcopy(model).eval()
    tensors = [*real.parameters(), *real.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        real.to_empty(device="cpu")
        with torch.no_grad():
            for tensor in [*real.parameters(), *real.buffers()]:
                tensor.zero_()
    return real


def _in_order(module: nn.Module, given: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
    """Return what a module was given as positional arguments, defaults filled in."""
    bound = inspect.signature(module.forward).bind(*given, **named)
    bound.apply_defaults()
    return [*bound.args, *bound.kwargs.values()]


def _run(
    model: nn.Module, args: Sequence[Any], names: Sequence[str], mode: FakeTensorMode | None
) -> dict[str, list[Any]]:
    """Run the model until every named module has been called; return what they were given."""
    reached: dict[str, list[Any]] = {}

    def hook(name: str) -> Any:
        def seen(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            reached.setdefault(name, _in_order(module, given, named))
            if len(reached) == len(names):
                raise _AllReachedError

        return seen

    handles = [
        model.get_submodule(name).register_forward_pre_hook(hook(name), with_kwargs=True)
        for name in names
    ]
    model.eval()
    try:
        with torch.no_grad():
            if mode is None:
                model(*args)
            else:
                with mode, quiet():
                    model(*args)
    except _AllReachedError:
        pass
    except Exception as error:
        if mode is None:
            raise UntraceableError(
                f"{type(model).__name__} fails on the example inputs: {first_line(error)}"
            ) from error
    finally:
        for handle in handles:
            handle.remove()
    return reached


def _scope(name: str, module: nn.Module, args: Sequence[Any], mode: FakeTensorMode) -> Scope:
    tensors = leaves(list(args))
    sizes = {tensor.shape[0] for tensor in tensors if tensor.ndim > 0}
    if len(sizes) != 1:  # no common batch: take it as it is
        return Scope(name, module, list(args), list(args), 1)

    def batch_of(size: int) -> list[Any]:
        def resized(value: Any) -> Any:
            if not (isinstance(value, Tensor) and value.ndim > 0):
                return value
            with mode:
                return value.new_empty((size, *value.shape[1:]))

        return [tree_map(resized, arg) for arg in args]

    return Scope(name, module, batch_of(1), batch_of(2), 1)
