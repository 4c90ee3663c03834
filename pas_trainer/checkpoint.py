"""One resumable file per trial, replaced after every epoch."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from pas_trainer.errors import DataError
from pas_trainer.whole_files import whole_file
from pas_trainer.workers import from_first, is_first


class Checkpoint:
    """The latest state of a trial: plain containers and tensors, read back without pickled code.

    Of several workers the first one reads and writes it.

    Args:
        folder: where the file lies; ``None`` keeps nothing.
        identity: what the state depends on; a file of another identity is ignored.
    """

    def __init__(self, folder: Path | None, identity: str) -> None:
        self._path = folder / "checkpoint.pt" if folder else None
        self._identity = identity

    def load(self) -> dict[str, Any] | None:
        """Return the saved state, or ``None`` if there is none that can be used.

        Raises:
            DataError: the file cannot be read.
        """
        return from_first(self._load)

    def _load(self) -> dict[str, Any] | None:
        if self._path is None or not self._path.exists():
            return None
        try:
            with zipfile.ZipFile(self._path) as archive:  # torch writes checksums, and asks none
                if (damaged := archive.testzip()) is not None:
                    raise zipfile.BadZipFile(damaged)
            state: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
        except MemoryError:  # the file may be whole
            raise
        except Exception as error:  # what unpickling a damaged file raises is of any kind
            raise DataError(
                f"checkpoint {self._path} cannot be read ({type(error).__name__}); "
                "remove it to start this trial anew"
            ) from error
        return state if state.get("identity") == self._identity else None

    def save(self, **state: Any) -> None:
        """Replace the file by ``state`` in one step: a kill leaves the old or the new one."""
        if self._path is None or not is_first():
            return
        with whole_file(self._path) as draft:
            torch.save({"identity": self._identity, **state}, draft)

    def remove(self) -> None:
        """Delete the file, if there is one."""
        if self._path is not None and is_first():
            self._path.unlink(missing_ok=True)
