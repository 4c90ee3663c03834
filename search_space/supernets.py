"""Supernets by name, and the plain record from which a searched network is rebuilt.

``build_supernet`` gives a wide network to search in; ``build_architecture`` gives the compact
network a search ended with, from the JSON document stored beside its weights.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from search_space.repvgg import REPVGG_VARIANTS, RepVGG, RepVGGVariant

ARCHITECTURE_FORMAT = 1
"""Version of the ``architecture.json`` layout; raised when old files can no longer be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SupernetConfig:
    """Which supernet to search in (``supernet:`` in a sweep file)."""

    name: str
    """A RepVGG family member, see :func:`supernet_names`."""
    options: Mapping[str, float] = field(default_factory=dict)
    """``width``: multiplier on every layer's channels, > 0 (default 1.0)."""

    def __post_init__(self) -> None:
        """Check the name and the options."""
        _scaled_variant(self.name, self.options)


def supernet_names() -> tuple[str, ...]:
    """Return the names that :func:`build_supernet` knows."""
    return tuple(REPVGG_VARIANTS)


def build_supernet(name: str, num_classes: int, in_channels: int = 3, **options: float) -> RepVGG:
    """Build a supernet in training form, randomly initialised from torch's global generator.

    Args:
        name: one of :func:`supernet_names`.
        num_classes: number of logits.
        in_channels: channels of the image.
        options: ``width``, a multiplier on every layer's channels.

    Raises:
        ValueError: unknown name or option, or an option out of range.
    """
    return RepVGG(_scaled_variant(name, options), num_classes, in_channels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """All it takes to rebuild a searched network in deploy form, as plain JSON values.

    Attributes:
        supernet: family member the search started from.
        options: the supernet's options.
        in_channels: channels of the image.
        image_size: height and width (pixels) of the images it was trained on.
        mean, std: per-channel normalisation of images scaled to [0, 1].
        classes: class names, in the order of the logits.
        open_channels: by channel group, the supernet's channels that stayed, ascending.
        format: :data:`ARCHITECTURE_FORMAT`.
    """

    supernet: str
    options: Mapping[str, float]
    in_channels: int
    image_size: int
    mean: Sequence[float]
    std: Sequence[float]
    classes: Sequence[str]
    open_channels: Mapping[str, Sequence[int]]
    format: int = ARCHITECTURE_FORMAT

    @property
    def widths(self) -> dict[str, int]:
        """Number of open channels by channel group."""
        return {name: len(channels) for name, channels in self.open_channels.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the document stored as ``architecture.json``."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Architecture:
        """Read the document written by :meth:`to_json`.

        Raises:
            ValueError: a field is missing or unknown, or the format is newer than this code.
        """
        fields = {f.name for f in dataclasses.fields(cls)}
        if document.get("format") != ARCHITECTURE_FORMAT:
            raise ValueError(
                f"architecture format {document.get('format')!r} is not {ARCHITECTURE_FORMAT}, "
                "the one this version reads; use the version that wrote it"
            )
        if set(document) != fields:
            odd = sorted(set(document) ^ fields)
            raise ValueError(f"architecture document has missing or unknown fields: {odd}")
        return cls(**document)


def build_architecture(architecture: Architecture, *, deploy: bool = True) -> RepVGG:
    """Build a searched network, weights at random.

    Args:
        architecture: what the search found.
        deploy: plain 3x3 convolutions, or else the sliced network with its training branches.

    Raises:
        ValueError: the supernet is unknown, or ``open_channels`` does not fit it.
    """
    variant = _scaled_variant(architecture.supernet, architecture.options)
    sizes = {
        f"stages.{i}.{j}": width
        for i, (depth, width) in enumerate(zip(variant.depths, variant.widths, strict=True))
        for j in range(depth)
    }
    if set(architecture.open_channels) != set(sizes):
        odd = sorted(set(architecture.open_channels) ^ set(sizes))
        raise ValueError(f"open_channels do not name the groups of {architecture.supernet}: {odd}")
    for name, channels in architecture.open_channels.items():
        ascending = list(channels) == sorted(set(channels))
        if not (channels and ascending and channels[0] >= 0 and channels[-1] < sizes[name]):
            raise ValueError(
                f"open_channels of group {name} must ascend within 0..{sizes[name] - 1}"
            )
    return RepVGG(
        variant,
        len(architecture.classes),
        architecture.in_channels,
        open_channels=architecture.open_channels,
        deploy=deploy,
    )


def _scaled_variant(name: str, options: Mapping[str, float]) -> RepVGGVariant:
    if name not in REPVGG_VARIANTS:
        close = difflib.get_close_matches(name, REPVGG_VARIANTS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(REPVGG_VARIANTS)}"
        raise ValueError(f"unknown supernet {name!r}; {hint}")
    unknown = sorted(set(options) - {"width"})
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r} of supernet {name}; known: width")
    factor = options.get("width", 1.0)
    if not 0 < factor <= 16:
        raise ValueError(f"option width of supernet {name} is {factor}; it must be in (0, 16]")
    variant = REPVGG_VARIANTS[name]
    widths = tuple(max(1, round(width * factor)) for width in variant.widths)
    return dataclasses.replace(variant, widths=widths)
