"""Fake tensors: shapes without numbers, so that a network can be followed without computing."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map


class UntraceableError(ValueError):
    """The network cannot be recorded; the message says where and why.

    Attributes:
        module: the module whose code stands in the way.
    """

    def __init__(self, message: str, module: str = "") -> None:
        super().__init__(message)
        self.module = module


def fake_copy(
    model: nn.Module, mode: FakeTensorMode, shapes: Mapping[str, Sequence[int]] | None = None
) -> nn.Module:
    """Return a copy whose parameters and buffers are fake tensors; ``model`` is untouched.

    Args:
        model: real or fake.
        mode: that the new tensors belong to.
        shapes: other shapes for some parameters and buffers, by name.

    Raises:
        UntraceableError: the model cannot be copied.
    """
    memo: dict[int, Any] = {}
    shapes = shapes or {}
    with mode:
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            shape = shapes.get(name, tensor.shape)
            fake = torch.empty(shape, dtype=tensor.dtype, device=_real_device(tensor))
            if isinstance(tensor, nn.Parameter):
                fake = nn.Parameter(fake, requires_grad=tensor.requires_grad)
            memo[id(tensor)] = fake
        for name, module in model.named_modules():
            for tensor in leaves(vars(module)):  # mere attributes, constants included
                if not tensor.is_leaf:
                    raise UntraceableError(
                        f"{name or type(model).__name__} holds a computed tensor as an attribute, "
                        "so it cannot be copied; make it a buffer or a parameter (the hooks of "
                        "torch.nn.utils.weight_norm and prune leave such tensors: their "
                        "remove_weight_norm and prune.remove take them away)",
                        name,
                    )
                memo.setdefault(id(tensor), tensor)
    try:
        with quiet():
            return copy.deepcopy(model, memo)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UntraceableError(
            f"{type(model).__name__} cannot be copied: {first_line(error)}"
        ) from error


def fake_inputs(args: Sequence[Any], mode: FakeTensorMode, device: torch.device) -> list[Any]:
    """Return the arguments with fake tensors on ``device`` in the place of tensors."""

    def fake(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        with mode:
            return torch.empty(value.shape, dtype=value.dtype, device=device)

    return [tree_map(fake, arg) for arg in args]


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter or buffer; the CPU where it has none."""
    first = next(iter([*model.parameters(), *model.buffers()]), None)
    return torch.device("cpu") if first is None else _real_device(first)


def default_device(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Make new tensors there; does nothing, which is faster, where they are made there anyway."""
    same = torch.get_default_device().type == device.type
    return contextlib.nullcontext() if same else device


def _real_device(tensor: Tensor) -> torch.device:
    """A network on the meta device is traced as if it were on the CPU."""
    return torch.device("cpu") if tensor.is_meta else tensor.device


def leaves(value: Any) -> list[Tensor]:
    """Return the tensors in a nested value."""
    return [v for v in tree_leaves(value) if isinstance(v, Tensor)]


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch from logging and warning of what fake tensors cannot do: exceptions say it."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before
