"""Data sets on an object store, brought to the node that opens them: driver and workers alike.

The cache folder is ``PAS_CACHE`` of each node, by default ``~/.cache/pas-orchestrator``; it may
hold ``PAS_CACHE_GIB``, by default what the disk has room for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pas_trainer import DataConfig, DataError, Place, is_remote, set_place

if TYPE_CHECKING:
    from deploy import StagingProgress

Tell = Callable[[str], None]
"""Called with a line for the person who waits."""


def bring_data(data: DataConfig, version: str = "", tell: Tell = lambda _: None) -> None:
    """Stage a data set on this node, if its root is remote, so that this process can open it.

    Args:
        data: which.
        version: the content that the sweep was planned with; empty: what there is now.
        tell: for progress.

    Raises:
        DataError: see :func:`deploy.stage`.
    """
    if data.root is None or not is_remote(data.root):
        return
    from deploy import stage  # not needed for data that is here

    root = data.root
    folder = stage(
        root,
        cache_folder(),
        limit_bytes=cache_limit(),
        version=version or None,
        progress=lambda progress: tell(f"data: staging {root}, {_shown(progress)}"),
    )
    set_place(root, Place(folder, folder.name))


def cache_folder() -> Path:
    """Return the folder named by ``PAS_CACHE``, or the default one."""
    named = os.environ.get("PAS_CACHE") or "~/.cache/pas-orchestrator"
    return Path(named).expanduser().resolve()


def cache_limit() -> int | None:
    """Return ``PAS_CACHE_GIB`` in bytes; ``None``: as the disk has room.

    Raises:
        DataError: it is no positive number.
    """
    written = os.environ.get("PAS_CACHE_GIB")
    if not written:
        return None
    try:
        limit = int(float(written) * 2**30)
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        raise DataError(f"PAS_CACHE_GIB is {written!r}; set it to a positive number, or unset it")
    return limit


def _shown(progress: StagingProgress) -> str:
    if progress.waiting:
        return "waiting for another process of this node"
    fetched, size = (n >> 20 for n in (progress.fetched_bytes, progress.num_bytes))
    return f"{progress.objects} of {progress.num_objects} objects, {fetched} of {size} MiB"
