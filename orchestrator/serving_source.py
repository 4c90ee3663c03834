"""What a server serves: brought from the registry into a folder, and named in a file there."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from deploy.export_folder import ONNX_FILE
from deploy.manifest import Manifest, verify_folder
from deploy.onnx_export import OnnxMissingError, require_onnx
from deploy.package import PackageError, load_architecture
from deploy.serving_model import Pointer
from orchestrator.errors import UserError
from orchestrator.home import write_text
from orchestrator.shipping import export
from orchestrator.wanted import Wanted, folder_of

Tell = Callable[[str], None]


class Source:
    """Brings what is to be served into a folder, and names it in the pointer file there.

    Args:
        wanted: a version, or an exported folder.
        engine: see :class:`orchestrator.serving.ServingOptions`.
        folder: empty.
    """

    def __init__(self, wanted: Wanted, engine: str | None, folder: Path) -> None:
        self._wanted, self._engine, self._folder = wanted, engine, folder
        self._given = folder_of(wanted)
        self._exported: Path | None = None
        self._said = ""
        self.pointer: Pointer
        self.manifest: Manifest

    @property
    def follows(self) -> bool:
        """Whether another version may come."""
        return self._given is None and self._wanted.version is None

    def refresh(self, tell: Tell = lambda _: None) -> bool:
        """Export what is wanted now unless it is served already; return whether it is another.

        Raises:
            UserError: the store does not answer.
            ValueError: of the kinds that :func:`orchestrator.shipping.export` tells of.
        """
        if self._given is not None:
            self._name(self._given.resolve(), None)
            return True
        found = self._wanted.find()
        _check_task(found.task, f"version {found.version} of {found.model}")
        out = self._folder / f"{found.version}-{found.content_hash[:16]}"
        before = self._exported
        if out == before:
            return False
        self._export(dataclasses.replace(self._wanted, version=found.version), out, tell)
        self._name(out, _number(found.tags.get("pas.accuracy")))
        self._exported = out
        for path in self._folder.glob("[0-9]*-*"):
            if path not in {out, before}:  # a replica may still be loading the one before
                shutil.rmtree(path, ignore_errors=True)
        return True

    def try_refresh(self, tell: Tell) -> None:
        """As :meth:`refresh`; what goes wrong is told once, and the old version stays."""
        try:
            if self.refresh():
                tell(f"{self._wanted.model}: version {self.manifest.version} is served from now on")
            self._said = ""
        except Exception as error:  # whatever it is, what is served goes on
            if str(error) != self._said:
                tell(f"the version served stays as it is: {error}")
            self._said = str(error)

    def _export(self, wanted: Wanted, out: Path, tell: Tell) -> None:
        """Export with the form that the engine needs; without one if there can be none."""
        if self._engine == "torch" or (self._engine is None and not has_onnx()):
            export(wanted, out, formats=[], tell=tell)
            return
        try:
            export(wanted, out, formats=["onnx"], tell=tell)
        except PackageError as error:
            if self._engine == "onnx":
                raise UserError(f"{wanted.model}: {error}; take --engine torch") from error
            tell(f"{error}; torch computes")
            export(wanted, out, formats=[], tell=tell)

    def _name(self, folder: Path, accuracy: float | None) -> None:
        """Name a folder in the pointer file."""
        manifest = verify_folder(folder)
        _check_task(load_architecture(folder).task, str(folder))
        has_form = ONNX_FILE in manifest.names and has_onnx()
        self.manifest = manifest
        self.pointer = Pointer(
            folder=str(folder),
            engine=self._engine or ("onnx" if has_form else "torch"),
            accuracy=accuracy,
            allow_import=self._wanted.allow_import,
        )
        write_text(pointer_file(self._folder), self.pointer.to_json())


def _check_task(task: str, what: str) -> None:
    if task != "classification":
        raise UserError(
            f"{what} is for {task}; pas serve answers classification alone, pas predict draws what "
            "other networks make of images"
        )


def pointer_file(folder: Path) -> Path:
    """Return the file that names what is served, in the folder of a server."""
    return folder / "serve.json"


def has_onnx() -> bool:
    """Whether ONNX networks can be written and run here."""
    try:
        require_onnx()
    except OnnxMissingError:
        return False
    return True


def _number(text: str | None) -> float | None:
    with suppress(TypeError, ValueError):
        return float(text)  # type: ignore[arg-type]
    return None
