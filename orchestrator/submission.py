"""What travels to a cluster: the sweep file in a job's entrypoint, and the code if asked for."""

from __future__ import annotations

import hashlib
import importlib
import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml

from orchestrator.config import SweepConfig
from orchestrator.errors import UserError
from orchestrator.loading import parse_sweep, read_document, relative_paths

_PACKAGES = ("search_space", "pas_trainer", "deploy", "orchestrator")
_MAX_BYTES = 100_000
"""Of a sweep file: it is an argument of a shell, and Linux takes no longer ones than 128 KiB."""
_HOME_IS_SET = (
    ': "${PAS_HOME:?is not set in the environment of the cluster; '
    'set it for all of its nodes, to a folder that all of them see}"'
)


def sweep_entrypoint(
    file: Path,
    overrides: Sequence[str],
    *,
    smoke: bool,
    options: Sequence[str],
    with_code: bool,
) -> tuple[SweepConfig, str]:
    """Return a sweep file's settings and the shell command that runs it on a cluster.

    The file is checked as far as that is possible without the cluster's data. It stands in the
    command itself, and is read from the standard input there.

    Args:
        file: the sweep file.
        overrides, smoke: as for :func:`orchestrator.loading.load_sweep`.
        options: further options of ``pas sweep``.
        with_code: whether the packages travel as well.

    Raises:
        UserError: the file is not valid, or names a path that only this machine knows.
    """
    document = read_document(file, overrides, smoke=smoke)
    config = parse_sweep(document, str(file))
    for name in relative_paths(document):
        section, key = name.split(".")
        raise UserError(
            f"{name} is {document[section][key]!r}, a path on this machine; where the sweep is a "
            f"job, give the absolute path that the cluster's nodes see (--set {name}=/...)"
        )
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    if len(text.encode()) > _MAX_BYTES:
        raise UserError(f"sweep file {file} has more than {_MAX_BYTES} bytes; shorten it")
    end = f"END-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    command = entrypoint(["sweep", "/dev/stdin", *options], with_code=with_code)
    return config, f"{command} <<'{end}'\n{text}{end}\n"


def entrypoint(arguments: Sequence[str], *, with_code: bool) -> str:
    """Return the shell command that runs ``pas`` with these arguments on a cluster."""
    pas = ["python", "-m", "orchestrator"] if with_code else ["pas"]
    words = shlex.join([*pas, *arguments, "--address", "auto"])
    return f"{_HOME_IS_SET}\nexec {words}"


def code_folders(supernet: str | None = None) -> list[str]:
    """Return what travels with ``--code``: the packages, and a user's module of this folder.

    Args:
        supernet: its name in the sweep file, such as ``import:mynets:build``.
    """
    found = [importlib.import_module(name).__path__[0] for name in _PACKAGES]
    if supernet is not None and supernet.startswith("import:"):
        top = supernet.split(":")[1].partition(".")[0]
        own = [path for path in (Path(top), Path(f"{top}.py")) if path.exists()]
        found += [str(path.resolve()) for path in own[:1]]
    return found
