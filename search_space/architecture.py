"""The plain record from which a searched network is rebuilt."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ARCHITECTURE_FORMAT = 2
"""Version of the ``architecture.json`` layout; raised when old files can no longer be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """All it takes to rebuild a searched network, as plain JSON values.

    Attributes:
        task: what it is for, see :class:`pas_trainer.TaskConfig`.
        task_options: of the task.
        supernet: name of the supernet the search started from, see
            :func:`search_space.build_supernet`.
        options: the supernet's options.
        scope: submodules that were searched in; empty: all.
        pinned: groups or modules that kept all their channels by request.
        in_channels: channels of the image.
        image_size: height and width (pixels) of the images it was trained on.
        mean, std: per-channel normalisation of images scaled to [0, 1].
        classes: class names, in the order of the logits; empty where the task has none.
        open_channels: by channel group, the supernet's channels that stayed, ascending.
        format: :data:`ARCHITECTURE_FORMAT`.
    """

    supernet: str
    options: Mapping[str, Any]
    scope: Sequence[str] = ()
    pinned: Sequence[str] = ()
    in_channels: int
    image_size: int
    mean: Sequence[float]
    std: Sequence[float]
    classes: Sequence[str]
    open_channels: Mapping[str, Sequence[int]]
    task: str = "classification"
    task_options: Mapping[str, Any] = field(default_factory=dict)
    format: int = ARCHITECTURE_FORMAT

    @property
    def widths(self) -> dict[str, int]:
        """Number of open channels by channel group."""
        return {name: len(channels) for name, channels in self.open_channels.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the document stored as ``architecture.json``."""
        document = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in document.items()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Architecture:
        """Read the document written by :meth:`to_json`.

        Raises:
            ValueError: a field is missing, unknown or of the wrong type, or the format is another.
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
        architecture = cls(**document)
        _check_values(architecture)
        return architecture


def _check_values(architecture: Architecture) -> None:
    """Check the types that a JSON document may get wrong and that nothing else checks."""
    for name in ("in_channels", "image_size"):
        value = getattr(architecture, name)
        if not (_is_int(value) and value >= 1):
            raise ValueError(f"{name} is {value!r}; it must be an integer of at least 1")
    if not (isinstance(architecture.task, str) and isinstance(architecture.task_options, dict)):
        raise ValueError("task must be a string and task_options an object")  # noqa: TRY004
    if not (isinstance(architecture.supernet, str) and isinstance(architecture.options, dict)):
        raise ValueError("supernet must be a string and options an object")  # noqa: TRY004
    for name in ("scope", "pinned"):
        if not _is_name_list(getattr(architecture, name)):
            raise ValueError(f"{name} must be a list of names")
    for name in ("mean", "std"):
        values = getattr(architecture, name)
        if not (isinstance(values, list) and all(_is_number(value) for value in values)):
            raise ValueError(f"{name} must be a list of numbers")
        if len(values) != architecture.in_channels:
            raise ValueError(f"{name} must have one number per channel")
    if not all(value > 0 for value in architecture.std):
        raise ValueError("std must be above 0")
    classes = architecture.classes
    if not (_is_name_list(classes) and (classes or architecture.task != "classification")):
        raise ValueError("classes must be a list of names")
    groups = architecture.open_channels
    if not (isinstance(groups, dict) and all(_is_int_list(c) for c in groups.values())):
        raise ValueError("open_channels must map group names to lists of integers")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_name_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_int_list(value: Any) -> bool:
    return isinstance(value, list) and all(_is_int(item) for item in value)


def _is_number(value: Any) -> bool:
    if not (_is_int(value) or isinstance(value, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond all floats
        return False
