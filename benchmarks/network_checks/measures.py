"""What the checks need: random networks, what reaches a submodule, counts and differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def randomize(model: nn.Module, args: Sequence[Any]) -> None:
    """Give every vector of parameters random values, and norms random statistics.

    The statistics lie around those of the network's own activations, so that neither vanish nor
    explode with depth: a wrong channel anywhere must be visible in the output.
    """
    for name, parameter in model.named_parameters():
        if parameter.numel() == max(parameter.shape):
            is_bias = name.endswith("bias")
            drawn = torch.randn_like(parameter) * 0.3 if is_bias else torch.rand_like(parameter)
            parameter.copy_(drawn if is_bias else drawn + 0.5)
        elif not parameter.any():  # a zero head would hide everything before it
            parameter.normal_(std=parameter[0].numel() ** -0.5)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    model(*args)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
        norm.eval()
        mean, var = norm.running_mean, norm.running_var
        assert mean is not None
        assert var is not None
        mean.add_(torch.randn_like(mean) * 0.3 * var.sqrt())
        var.mul_(torch.rand_like(var) + 0.5).add_(1e-3)


class _ReachedError(Exception):
    pass


def reaching(network: nn.Module, name: str, args: Sequence[Any]) -> tuple[Any, ...]:
    """Return the positional arguments that reach a submodule."""
    found: list[Any] = []

    def hook(_module: nn.Module, given: tuple[Any, ...]) -> None:
        found.extend(given)
        raise _ReachedError

    handle = network.get_submodule(name).register_forward_pre_hook(hook)
    try:
        with torch.no_grad():
            network(*args)
    except _ReachedError:
        pass
    finally:
        handle.remove()
    return tuple(found)


def count_macs(network: nn.Module, name: str, args: Sequence[Any]) -> int:
    """Count the MACs of one image in a submodule, on the meta device."""
    part = network.get_submodule(name)
    if name:
        args = reaching(network, name, args)
    state = {**dict(part.named_parameters()), **dict(part.named_buffers())}
    on_meta = {key: torch.empty_like(value, device="meta") for key, value in state.items()}

    def one_image(value: Any) -> Any:
        is_batch = isinstance(value, Tensor) and value.ndim > 1
        return torch.empty_like(value[:1], device="meta") if is_batch else value

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        functional_call(part, on_meta, tuple(tree_map(one_image, arg) for arg in args))
    return int(counter.get_total_flops()) // 2


def float_leaves(value: Any) -> list[Tensor]:
    """Return the floating-point tensors in a nested value."""
    return [v for v in tree_leaves(value) if isinstance(v, Tensor) and v.is_floating_point()]


def relative_difference(got: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest absolute difference over the largest absolute value, the worst of all tensors."""
    assert len(got) == len(expected)
    assert got
    worst = 0.0
    for a, b in zip(got, expected, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if b.numel():
            largest = float(b.abs().max())
            difference = float((a - b).abs().max()) / max(largest, 1e-30)
            worst = max(worst, float("inf") if math.isnan(difference) else difference)
    return worst
