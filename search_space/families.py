"""The project's own supernet families, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from search_space.mask_rcnn import MASK_RCNN_VARIANTS, mask_rcnn
from search_space.mobileone import MOBILEONE_VARIANTS, MobileOne
from search_space.repvgg import REPVGG_VARIANTS, RepVGG
from search_space.resnet_generator import RESNET_GENERATOR_VARIANTS, ResNetGenerator
from search_space.unet import UNET_VARIANTS, UNetGenerator
from search_space.vgg import VGG_VARIANTS, ReparamVGG

MAX_WIDTH_FACTOR = 16
"""Largest ``width`` option."""
MAX_NUMBER = 4096
"""Largest value of the options that are whole numbers."""

FAMILIES: Mapping[str, tuple[Any, Callable[[Any, int, int], nn.Module]]] = {
    **{name: (variant, RepVGG) for name, variant in REPVGG_VARIANTS.items()},
    **{name: (variant, MobileOne) for name, variant in MOBILEONE_VARIANTS.items()},
    **{name: (variant, ReparamVGG) for name, variant in VGG_VARIANTS.items()},
    **{name: (variant, UNetGenerator) for name, variant in UNET_VARIANTS.items()},
    **{name: (variant, ResNetGenerator) for name, variant in RESNET_GENERATOR_VARIANTS.items()},
    **{name: (variant, mask_rcnn) for name, variant in MASK_RCNN_VARIANTS.items()},
}
"""By name: a variant (a dataclass whose ``widths`` are the channels of its stages, and whose
``whole_number_options`` names other fields that options set) and the network
that is called with (variant, number of classes, channels of the image); generators take the number
of channels of the image that comes out in the place of the classes."""


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
    others = {option: options[option] for option in _numbers(name) if option in options}
    return network(dataclasses.replace(variant, widths=widths, **others), num_classes, in_channels)


def check_family_options(name: str, options: Mapping[str, Any]) -> None:
    """Check the options of a member of :data:`FAMILIES`.

    Raises:
        ValueError: unknown option, or an option out of range.
    """
    known = ("width", *_numbers(name))
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(
            f"unknown option {unknown[0]!r} of supernet {name}; known: {', '.join(known)}"
        )
    factor = options.get("width", 1.0)
    is_number = isinstance(factor, int | float) and not isinstance(factor, bool)
    if not (is_number and 0 < factor <= MAX_WIDTH_FACTOR):
        raise ValueError(
            f"option width of supernet {name} is {factor!r}; "
            f"it must be a number in (0, {MAX_WIDTH_FACTOR}]"
        )
    for option in _numbers(name):
        number = options.get(option, 1)
        if isinstance(number, bool) or not isinstance(number, int) or not 0 < number <= MAX_NUMBER:
            raise ValueError(
                f"option {option} of supernet {name} is {number!r}; "
                f"it must be a whole number from 1 to {MAX_NUMBER}"
            )


def _numbers(name: str) -> tuple[str, ...]:
    """Return the options of a family beside ``width``: whole numbers."""
    return getattr(FAMILIES[name][0], "whole_number_options", ())
