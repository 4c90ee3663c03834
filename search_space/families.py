"""The project's own supernet families, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from search_space.mobileone import MOBILEONE_VARIANTS, MobileOne
from search_space.repvgg import REPVGG_VARIANTS, RepVGG
from search_space.vgg import VGG_VARIANTS, ReparamVGG

MAX_WIDTH_FACTOR = 16
"""Largest ``width`` option."""

FAMILIES: Mapping[str, tuple[Any, Callable[[Any, int, int], nn.Module]]] = {
    **{name: (variant, RepVGG) for name, variant in REPVGG_VARIANTS.items()},
    **{name: (variant, MobileOne) for name, variant in MOBILEONE_VARIANTS.items()},
    **{name: (variant, ReparamVGG) for name, variant in VGG_VARIANTS.items()},
}
"""By name: a variant (a dataclass whose ``widths`` are the channels of its stages) and the network
that is called with (variant, number of classes, channels of the image)."""


def build_family(
    name: str, num_classes: int, in_channels: int, options: Mapping[str, Any]
) -> nn.Module:
    """Build a member of :data:`FAMILIES`.

    Raises:
        ValueError: unknown option, or an option out of range.
    """
    check_family_options(name, options)
    variant, network = FAMILIES[name]
    factor = options.get("width", 1.0)
    widths = tuple(max(1, round(width * factor)) for width in variant.widths)
    return network(dataclasses.replace(variant, widths=widths), num_classes, in_channels)


def check_family_options(name: str, options: Mapping[str, Any]) -> None:
    """Check the options of a member of :data:`FAMILIES`.

    Raises:
        ValueError: unknown option, or an option out of range.
    """
    unknown = sorted(set(options) - {"width"})
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r} of supernet {name}; known: width")
    factor = options.get("width", 1.0)
    is_number = isinstance(factor, int | float) and not isinstance(factor, bool)
    if not (is_number and 0 < factor <= MAX_WIDTH_FACTOR):
        raise ValueError(
            f"option width of supernet {name} is {factor!r}; "
            f"it must be a number in (0, {MAX_WIDTH_FACTOR}]"
        )
