"""Reading the files in deploy/ that launch a cluster, and the command lines in them."""

from __future__ import annotations

import re
import shutil
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN$")
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
"""``${NAME:-default}`` and ``${NAME:?message}``, as Compose writes them."""
DOCKERFILE = "deploy/docker/Dockerfile"
COMPOSE = "deploy/compose/compose.yaml"
FILES = sorted(
    str(path.relative_to(ROOT))
    for folder in ("aws", "compose", "docker", "kuberay", "slurm")
    for path in (DEPLOY / folder).iterdir()
    if path.name != ".env"
)
PINNED = dict(line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().split())


def option(words, name):
    """Return the values of ``--name=value`` and ``--name value``."""
    words = " ".join(words).replace("=", " ").split()
    return [words[i + 1] for i, word in enumerate(words) if word == name]


def text_of(path: str) -> str:
    return (ROOT / path).read_text()


def documents(path: str) -> list[Any]:
    return list(yaml.safe_load_all(text_of(path)))


def tool(name: str) -> str:
    """Return the path of a program of the dev extra; skip where the platform has none."""
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    return found or pytest.skip(f"{name} is not installed; it has no package for this platform")


def filled_in(text: str, values: Mapping[str, str]) -> str:
    """Return ``text`` with Compose's variables replaced, as Compose does it."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if values.get(name):
            return values[name]
        assert kind == "-", f"{name} is needed and not set"
        return rest

    return VARIABLE.sub(value, text)


def check_command_line(words: list[str]) -> None:
    """Check ``pas``, ``ray`` or ``mlflow`` with these words against that program itself.

    Raises:
        click.UsageError: no such command, option or argument.
    """
    command = _program(words[0])
    words = words[1:]
    while isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(click.Context(command), name)
        if found is None:
            raise click.UsageError(f"no command {name}")
        command = found
    command.make_context(command.name, list(words))


def _program(name: str) -> click.Command:
    if name == "pas":
        import typer

        from orchestrator.cli import app

        return typer.main.get_command(app)
    if name == "ray":
        from ray.scripts.scripts import cli

        return cli
    from mlflow.cli import cli

    return cli


def ignored_by_docker(path: str) -> bool:
    """Tell whether .dockerignore keeps ``path`` out of the build; the last pattern decides."""
    ignored = False
    parts = path.split("/")
    parents = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    for line in text_of(".dockerignore").splitlines():
        pattern = line.strip().lstrip("!").rstrip("/")
        if not pattern or pattern.startswith("#"):
            continue
        regex = re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(regex, parent) for parent in parents):
            ignored = not line.startswith("!")
    return ignored
