"""Networks that hide their code, and what to pass instead."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def refuse_wrapped(model: nn.Module) -> None:
    """Raise ``ValueError`` for models that hide the network, saying where it is."""
    kind = type(model).__name__
    for wrapper, way_out in (
        (nn.DataParallel, "pass its .module"),
        (nn.parallel.DistributedDataParallel, "pass its .module"),
        (torch.jit.ScriptModule, "pass the nn.Module it was scripted from"),
    ):
        if isinstance(model, wrapper):
            message = f"{kind} wraps a network and cannot be traced; {way_out}"
            raise ValueError(message)  # noqa: TRY004 - bad input is a ValueError here
    if hasattr(model, "_orig_mod"):
        raise ValueError(f"{kind} is a compiled network; pass it as it was before torch.compile")
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            message = f"{kind}.{name} has no shape yet; run the model once on a batch first"
            raise ValueError(message)  # noqa: TRY004


def refuse_compiled_parts(model: nn.Module, scopes: Sequence[str]) -> None:
    """Raise ``ValueError`` for modules inside what is searched whose code cannot be recorded."""
    for name, module in model.named_modules():
        if scopes and not any(f"{name}.".startswith(f"{scope}.") for scope in scopes):
            continue
        if isinstance(module, torch.jit.ScriptModule):
            message = f"{name} is a scripted module and cannot be traced; use what it was made from"
            raise ValueError(message)  # noqa: TRY004
        if hasattr(module, "_orig_mod"):
            raise ValueError(
                f"{name} is compiled and cannot be traced; use it without torch.compile"
            )
