"""Processes of Ray on this machine, told apart by whose they are."""

from __future__ import annotations

from pathlib import Path


def trial_workers(ancestor: int, title: bytes = b"ray::ImplicitFunc") -> list[int]:
    """Return the workers that train trials below this process.

    Args:
        ancestor: the process that started Ray, or one further up.
        title: what Ray calls them: Tune's, or Ray Train's ``ray::RayTrainWorker``.
    """
    parents, workers = {}, []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            stat = (process / "stat").read_text()
            found = (process / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended meanwhile
        parents[int(process.name)] = int(stat.rpartition(")")[2].split()[1])
        if found.startswith(title):
            workers.append(int(process.name))
    return [worker for worker in workers if _is_below(worker, ancestor, parents)]


def _is_below(process: int, ancestor: int, parents: dict[int, int]) -> bool:
    while process in parents and process != ancestor:
        process = parents[process]
    return process == ancestor
