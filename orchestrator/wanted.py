"""What a command on a model is about: a version in the registry, or a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from deploy.manifest import MANIFEST_FILE
from deploy.package import ARCHITECTURE_FILE, PackageError
from deploy.registered import RegisteredVersion, find_version, has_model
from orchestrator.errors import UserError
from orchestrator.lookup import has_store, store_of

CHAMPION = "champion"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which version of which model, in which store.

    Attributes:
        model: its name in the registry; for some commands also the path of a folder.
        alias: what points to the version, unless ``version`` is given; ``None``: the champion.
        version: its number.
        tracking_uri: of the store; ``None``: the home folder's.
        allow_import: whether the code that an ``import:`` supernet or task names may be run.
    """

    model: str
    alias: str | None = None
    version: int | None = None
    tracking_uri: str | None = None
    allow_import: bool = False

    def find(self) -> RegisteredVersion:
        """Look it up.

        Raises:
            UserError: the store does not answer.
            PackageError: there is no such version.
        """
        uri = store_of(self.tracking_uri, None)
        return find_version(uri, self.model, alias=self.alias or CHAMPION, version=self.version)


def folder_of(wanted: Wanted, *, trial: bool = False) -> Path | None:
    """Return the exported folder that is meant; ``None`` if it is a version in the registry.

    A path (with a slash, or beginning with a dot or ``~``) means a folder. A plain name means a
    model; it means the exported folder of that name only where the registry has no such model.

    Args:
        wanted: what the command was given.
        trial: whether the folder of a trial will do as well.

    Raises:
        UserError: it is the path of another folder, it may be a folder as well as a model, or an
            alias or a version of a folder is asked for.
    """
    model = wanted.model
    is_path = os.sep in model or model.startswith((".", "~"))
    path = Path(model).expanduser() if is_path else Path(model)
    files = (MANIFEST_FILE, ARCHITECTURE_FILE) if trial else (MANIFEST_FILE,)
    if not any((path / name).is_file() for name in files):
        if is_path:
            raise UserError(f"{model} is not a folder that pas export or pas fetch has written")
        return None
    if not is_path and _is_model(wanted):
        if _chosen_by(wanted) is not None:
            return None
        raise UserError(
            f"{model} is a model of the registry, and a folder here; write ./{model} for the "
            f"folder, or {model} --alias {CHAMPION} for the model"
        )
    if (option := _chosen_by(wanted)) is not None:
        raise UserError(
            f"{option} is given, but {model} is a folder, which holds one version; leave {option} "
            "out, or name a model of the registry"
        )
    return path


def _chosen_by(wanted: Wanted) -> str | None:
    """Return the option, as it was written, that asks for one of several versions."""
    if wanted.version is not None:
        return f"--version {wanted.version}"
    return None if wanted.alias is None else f"--alias {wanted.alias}"


def _is_model(wanted: Wanted) -> bool:
    """Whether the registry has a model of the name of a folder.

    Raises:
        UserError: it does not answer.
    """
    if not has_store(wanted.tracking_uri):
        return False
    try:
        return has_model(store_of(wanted.tracking_uri, None), wanted.model)
    except (UserError, PackageError) as error:
        raise UserError(
            f"{wanted.model} is a folder here, and whether it is a model of the registry too "
            f"cannot be told ({error}); write ./{wanted.model} for the folder"
        ) from None
