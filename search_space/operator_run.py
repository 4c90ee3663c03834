"""An operator as something to call, at any widths."""

from __future__ import annotations

import copy
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from search_space.latency_target import LatencyTarget
from search_space.operators import Operator, ScopeInputs, TensorSpec

Run = Callable[[], Any]

_FULL = (Fraction(1), Fraction(1))


def operator_run(operator: Operator, channels: tuple[int, int], target: LatencyTarget) -> Run:
    """Return a call of the operator with these (read, written) channels on random tensors.

    Tensors are near 1, so that operators that change their input in place do not run into
    denormal numbers when repeated.
    """
    shares = Fraction(channels[0], operator.full[0]), Fraction(channels[1], operator.full[1])

    def filled(value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device(target.device)
        return _random(value, shares, target) if isinstance(value, TensorSpec) else value

    args, kwargs = tree_map(filled, operator.arguments)
    if isinstance(operator.target, str):
        method = getattr(args[0], operator.target)
        return lambda: method(*args[1:], **kwargs)
    if not isinstance(operator.target, nn.Module):
        args, kwargs = _fitted(operator, args, kwargs, shares)
        function = operator.target
        return lambda: function(*args, **kwargs)
    module = copy.deepcopy(operator.target)
    for name, spec in operator.tensors:
        parent, _, own_name = name.rpartition(".")
        owner = module.get_submodule(parent)
        tensor = _random(spec, shares, target)
        if own_name in owner._buffers:
            owner._buffers[own_name] = tensor
        else:
            owner._parameters[own_name] = nn.Parameter(tensor, requires_grad=False)
    for part in module.modules():
        _fit(operator, part, shares)
    return lambda: module(*args, **kwargs)


def scope_run(module: nn.Module, inputs: ScopeInputs, target: LatencyTarget) -> Run:
    """Return a call of a network, or of a searched part, on a random batch."""

    def filled(value: Any) -> Any:
        return _random(value, _FULL, target) if isinstance(value, TensorSpec) else value

    args = tree_map(filled, inputs.args)
    return lambda: module(*args)


def _random(spec: TensorSpec, shares: tuple[Fraction, Fraction], target: LatencyTarget) -> Tensor:
    shape, order = spec.shape_at(shares, target.batch_size), spec.order
    in_memory_order = [shape[dim] for dim in order]
    if not spec.dtype.is_floating_point:
        tensor = torch.zeros(in_memory_order, dtype=spec.dtype, device=target.device)
    else:
        tensor = torch.empty(in_memory_order, dtype=target.torch_dtype, device=target.device)
        tensor.uniform_(0.9, 1.1)
    tensor = tensor.permute([order.index(dim) for dim in range(len(order))])
    sides = dict(spec.resized)
    images = len(shape) == 4 and not sides.keys() - {0, 1}
    if target.channels_last and images and order == (0, 1, 2, 3):
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return tensor


def _fit(operator: Operator, module: nn.Module, shares: tuple[Fraction, Fraction]) -> None:
    """Set what a module knows of its channels."""
    settings: Any = module
    if operator.has_group_per_unit and hasattr(module, "groups"):
        settings.groups = max(1, round(settings.groups * shares[1]))
    weight = module._parameters.get("weight")
    if weight is not None and hasattr(module, "normalized_shape"):
        settings.normalized_shape = tuple(weight.shape)
    if hasattr(module, "num_features"):
        resized = max(1, round(settings.num_features * shares[1]))
        settings.num_features = resized if weight is None else len(weight)


def _fitted(
    operator: Operator, args: Any, kwargs: Any, shares: tuple[Fraction, Fraction]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a function with what they say of the channels set right."""
    args, kwargs = list(args), dict(kwargs)
    name = getattr(operator.target, "__name__", "")
    if name == "layer_norm":
        _replace(args, kwargs, 1, "normalized_shape", _given(args, kwargs, 2, "weight").shape)
    if operator.has_group_per_unit and name.startswith("conv"):
        groups = round(_given(args, kwargs, 6, "groups") * shares[1])
        _replace(args, kwargs, 6, "groups", max(1, groups))
    return args, kwargs


def _given(args: list[Any], kwargs: dict[str, Any], position: int, name: str) -> Any:
    return args[position] if position < len(args) else kwargs[name]


def _replace(args: list[Any], kwargs: dict[str, Any], position: int, name: str, value: Any) -> None:
    if position < len(args):
        args[position] = value
    else:
        kwargs[name] = value
