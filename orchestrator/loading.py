"""From a YAML file and ``--set`` overrides to a :class:`SweepConfig`, or one clear sentence."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from orchestrator.config import SweepConfig
from orchestrator.errors import UserError
from orchestrator.yaml_values import read_values
from pas_trainer import is_remote
from search_space import is_weights_file

_PATHS = (("data", "root"), ("supernet", "weights"), ("latency", "table"), ("tracking", "uri"))

SMOKE = {
    "pretrain.epochs": 1,
    "search.epochs": 1,
    "finetune.epochs": 1,
    "trials_per_cell": 1,
    "data.train_images": 1000,
    "data.test_images": 200,
}
"""What ``--smoke`` sets: the same sweep shrunk to about a minute."""


def load_sweep(path: Path, overrides: Sequence[str] = (), *, smoke: bool = False) -> SweepConfig:
    """Read and validate a sweep file.

    Args:
        path: YAML file; relative paths in it are relative to its folder.
        overrides: ``key.subkey=value`` with a YAML value, applied in order.
        smoke: shrink the sweep (see :data:`SMOKE`) and add ``-smoke`` to its name.

    Raises:
        UserError: the file is missing, not YAML, or a field is unknown or out of range.
    """
    document = read_document(path, overrides, smoke=smoke)
    for name, values, key in _paths(document):
        scheme, written = _split(values[key])
        try:
            found = (path.parent / Path(written).expanduser()).resolve()
        except (RuntimeError, ValueError) as error:  # no such user, a NUL
            raise UserError(f"{path}: {name} is {written!r}, which is no path: {error}") from None
        values[key] = f"{scheme}{found}"
    return parse_sweep(document, str(path))


def read_document(
    path: Path, overrides: Sequence[str] = (), *, smoke: bool = False
) -> dict[str, Any]:
    """Return a sweep file's plain values with the overrides: not validated, paths as written.

    Raises:
        UserError: the file is missing or not YAML.
    """
    document = _read_yaml(path)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise UserError(f"--set {override!r} has no '='; write --set key=value")
        try:
            _assign(document, key, read_values(text))
        except (yaml.YAMLError, ValueError) as error:  # the latter of dates such as 2024-13-45
            raise UserError(f"--set {override!r}: the value is not valid YAML") from error
    if smoke:
        pretrain = document.get("pretrain")
        as_loaded = isinstance(pretrain, dict) and pretrain.get("epochs") == 0
        for key, value in SMOKE.items():
            if not (as_loaded and key == "pretrain.epochs"):
                _assign(document, key, _at_most(value, document, key))
        document["name"] = f"{document.get('name', '')}-smoke"
    return document


def relative_paths(document: Mapping[str, Any]) -> list[str]:
    """Return the fields of a sweep file whose path depends on where the file is, or for whom."""
    paths = [(name, _split(values[key])[1]) for name, values, key in _paths(document)]
    return [name for name, path in paths if not Path(path).is_absolute()]


def parse_sweep(document: Mapping[str, Any], where: str) -> SweepConfig:
    """Validate plain values; ``where`` begins the sentence if something is wrong.

    Raises:
        UserError: naming the first field that is wrong, its value and what it may be.
    """
    try:
        return SweepConfig.model_validate(document)
    except ValidationError as error:
        raise UserError(f"{where}: {_sentence(error)}") from None


def parse_recorded(document: Mapping[str, Any], where: str) -> SweepConfig:
    """Validate the settings that a sweep has recorded.

    Raises:
        UserError: they are of a version that knew others.
    """
    try:
        return parse_sweep(document, where)
    except UserError as error:
        raise UserError(
            f"{error}. The sweep is of another version of this program: use that one for it, or "
            "start another sweep, of another name or with --new"
        ) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        document = read_values(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"sweep file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"sweep file {path} cannot be read: {error}") from None
    except (yaml.YAMLError, ValueError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or str(error)
        raise UserError(f"sweep file {path} is not valid YAML{line}: {problem}") from None
    if not isinstance(document, dict):
        raise UserError(f"sweep file {path} must hold 'key: value' lines at its top level")
    return document


def _assign(document: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        child = document.setdefault(parent, {})
        if not isinstance(child, dict):
            raise UserError(f"--set {dotted}: {parent} is a value, it has no parts")
        document = child
    document[last] = value


def _at_most(value: int, document: Mapping[str, Any], dotted: str) -> int:
    """Return a value, or the smaller one that the document has in its place."""
    now: Any = document
    for part in dotted.split("."):
        now = now.get(part) if isinstance(now, dict) else None
    return min(value, now) if isinstance(now, int) and now > 0 else value


def _paths(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the paths of a sweep file: name of the field, its section and its key there.

    Addresses (``s3://...``) are none, but those of SQLite's files.
    """
    for section, key in _PATHS:
        values = document.get(section)
        value = values.get(key) if isinstance(values, dict) else None
        if not isinstance(values, dict) or not isinstance(value, str):
            continue
        is_path = not is_remote(value) and (key != "weights" or is_weights_file(value))
        if _split(value)[0] if key == "uri" else is_path:
            yield f"{section}.{key}", values, key


def _split(value: str) -> tuple[str, str]:
    """Split ``sqlite:///`` from the path of a database; other values are paths as they are."""
    match = re.fullmatch(r"(sqlite:///)([^:].*)", value)
    return (match[1], match[2]) if match else ("", value)


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    path = list(first["loc"])
    name = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")
    if first["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        known = _known_keys([str(p) for p in path[:-1]])
        close = difflib.get_close_matches(str(path[-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
        return f"unknown key {name}; {hint}"
    if first["type"] in {"missing", "missing_argument", "missing_keyword_only_argument"}:
        return f"{name} is missing"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{name}: {message}" if name else message
    return f"{name} is {first['input']!r}: {message[0].lower()}{message[1:]}"


def _known_keys(path: Sequence[str]) -> list[str]:
    """Field names of the section at ``path`` of the sweep file."""
    section: Any = SweepConfig
    for part in path:
        section = _field_type(section, part)
    if isinstance(section, type) and issubclass(section, BaseModel):
        return list(section.model_fields)
    if dataclasses.is_dataclass(section):
        return [f.name for f in dataclasses.fields(section)]
    return []


def _field_type(section: Any, name: str) -> Any:
    hints = typing.get_type_hints(section) if isinstance(section, type) else {}
    kind = hints.get(name)
    if kind is None:  # a mapping's value, such as one hyper-parameter's range
        arguments = typing.get_args(section)
        return arguments[-1] if arguments else None
    if typing.get_origin(kind) in {typing.Union, types.UnionType}:
        return next(a for a in typing.get_args(kind) if a is not type(None))
    return kind
