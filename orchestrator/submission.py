"""What travels to a cluster: the sweep file in a job's entrypoint, and the code if asked for."""

from __future__ import annotations

import atexit
import hashlib
import importlib
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from orchestrator.config import SweepConfig
from orchestrator.errors import UserError
from orchestrator.loading import parse_sweep, read_document, relative_paths

_PACKAGES = ("search_space", "pas_trainer", "deploy", "orchestrator")
NEVER_SENT = [".env", ".env.*", "*.pem", ".git", "__pycache__"]
"""What stays here of the folders of :func:`code_folders`, as .gitignore writes it: ``deploy`` may
hold a filled-in ``.env``, and Ray heeds no ignore file above a folder."""

_MAX_BYTES = 100_000
"""Of a sweep file: it is an argument of a shell, and Linux takes no longer ones than 128 KiB."""


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
    return f"exec {shlex.join([*pas, *arguments, '--address', 'auto'])}"


def code_folders(*names: str) -> list[str]:
    """Return what travels with ``--code``: the packages, and a user's modules of this folder.

    Args:
        names: of supernet and task in the sweep file, such as ``import:mynets:build``.
    """
    found = [importlib.import_module(name).__path__[0] for name in _PACKAGES]
    own = [name.split(":")[1].partition(".")[0] for name in names if name.startswith("import:")]
    for top in dict.fromkeys(own):
        if Path(top).is_dir():
            found.append(str(Path(top).resolve()))
        elif Path(f"{top}.py").is_file():
            found.append(str(_as_package(Path(f"{top}.py"))))
    return found


def _as_package(module: Path) -> Path:
    """Return a folder that is imported as a module of one file is: jobs take folders alone."""
    parent = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    package = parent / module.stem
    package.mkdir()
    shutil.copy(module, package / "__init__.py")
    return package
