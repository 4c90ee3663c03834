"""Public data sets beside the checkout, on machines that have them."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data"


def unpack(name: str, folder: Path) -> Path:
    """Unpack a data set into a folder; skip the test where there is none."""
    file = FOLDER / name
    if not file.is_file():
        pytest.skip(f"needs {name} in a folder shared/data beside the checkout")
    with tarfile.open(file) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.iterdir())
