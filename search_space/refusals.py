"""Networks that hide their code, and what to pass instead."""

from __future__ import annotations

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
    for name, module in model.named_modules():
        if hasattr(module, "_orig_mod"):  # must not even be run with fake tensors
            raise ValueError(
                f"{name} is compiled and cannot be traced; use it without torch.compile"
            )
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            message = f"{kind}.{name} has no shape yet; run the model once on a batch first"
            raise ValueError(message)  # noqa: TRY004
