"""The feature network of a kernel distance, which is the user's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pas_trainer.tasks.about import About
from search_space import find_attribute
from search_space.fakes import first_line

_OPTION = "task.options.features"


def feature_network(name: str) -> nn.Module:
    """Return what a function of the user's own makes.

    Args:
        name: ``import:package.module:function``.

    Raises:
        ValueError: there is no such function, it fails, or it makes something else; one sentence.
    """
    function = find_attribute(name, _OPTION)
    try:
        network = function()
    except (Exception, SystemExit) as error:  # the user's own code can raise anything
        told = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"{_OPTION} {name} failed: {told}") from error
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise ValueError(  # noqa: TRY004
            f"{_OPTION} {name} returns a {kind}; it must return a network"
        )
    return network


def check_features(name: str, network: nn.Module, about: About) -> None:
    """Pass two images of noise through a feature network, on the CPU.

    Args:
        name: as above.
        network: left in eval mode.
        about: the images it is to read.

    Raises:
        ValueError: they do not pass, or give no finite features of each; one sentence.
    """
    shape = (2, about.channels, about.image_size, about.image_size)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            found = network.cpu().eval()(images)
    except Exception as error:  # the user's own code can raise anything
        raise ValueError(
            f"images of shape {shape} do not pass through {_OPTION} {name} ({first_line(error)}); "
            "let it take float32 images of data.image_size"
        ) from error
    if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != 2:
        told = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"{_OPTION} {name} gives {told} for 2 images; it must give a tensor (2, ...)"
        )
    if not found.is_floating_point() or not found.isfinite().all():
        told = "NaN or infinite" if found.is_floating_point() else str(found.dtype)
        raise ValueError(f"{_OPTION} {name} gives {told} features; they must be finite floats")
