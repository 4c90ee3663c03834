"""Hashes of configurations: what names caches, checkpoints and sweeps by their content."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

ADDED = {"added": True}
"""Metadata of a dataclass's field that earlier versions did not have. While it has its default it
is left out of hashes, so that what those versions computed is still found."""


def content_key(*parts: Any) -> str:
    """Return a 12-digit hash of configurations (dataclasses) and plain values."""
    text = json.dumps([plain_values(part) for part in parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def state_key(config: Any) -> str:
    """Return a hash of what the states of a trial, control or front depend on.

    As :func:`content_key`, but of a latency table the content counts, not where it lies.
    """
    plain = plain_values(config)
    trial = plain.get("trial", plain)
    if trial["latency_table"] is not None:
        with contextlib.suppress(OSError):  # told when the table is needed
            trial["latency_table"] = Path(trial["latency_table"]).read_text(encoding="utf-8")
    return content_key(plain)


def plain_values(value: Any) -> Any:
    """Return a configuration as plain values, without added fields that have their defaults.

    Mappings of fields whose metadata say ``ordered`` keep their order.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        left_out = unset_additions(value)
        fields = [f for f in dataclasses.fields(value) if f.name not in left_out]
        plain = {f.name: plain_values(getattr(value, f.name)) for f in fields}
        ordered = {f.name: _in_order(plain[f.name]) for f in fields if f.metadata.get("ordered")}
        return plain | ordered
    if isinstance(value, dict):
        return {key: plain_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(item) for item in value]
    return value


def _in_order(mapping: dict[str, Any]) -> Any:
    """Return pairs where the order of a mapping is not that of its keys, which hashes go by."""
    return mapping if list(mapping) == sorted(mapping) else [list(pair) for pair in mapping.items()]


def unset_additions(config: Any) -> list[str]:
    """Return the fields of a configuration that are :data:`ADDED` and have their defaults."""
    return [
        field.name
        for field in dataclasses.fields(config)
        if field.metadata.get("added") and getattr(config, field.name) == _default(field)
    ]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
