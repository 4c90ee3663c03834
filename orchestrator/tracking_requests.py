"""A few requests to MLflow that respect its limits per request (sizes as of MLflow 3)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

MAX_TAG_CHARS = 7900
PAGE_SIZE = 1000
_MAX_PARAM_CHARS, _MAX_METRICS, _MAX_OTHERS = 6000, 1000, 90


def paged(search: Any, **query: Any) -> list[Any]:
    """Return all results of a paged MLflow search such as ``client.search_runs``.

    As :func:`deploy.paging.paged`, which commands that only read do without: its package imports
    torch, for seconds.
    """
    found: list[Any] = []
    token = None
    while True:
        page = search(**query, max_results=PAGE_SIZE, page_token=token)
        found.extend(page)
        token = page.token
        if not token:
            return found


def log_batches(
    client: Any,
    run_id: str,
    metrics: Sequence[Any],
    params: Mapping[str, str],
    tags: Mapping[str, str],
) -> None:
    """Log all in as few requests as MLflow allows; the tags last, for they say it is complete."""
    from mlflow.entities import Param, RunTag

    param_list = [Param(name, value[:_MAX_PARAM_CHARS]) for name, value in params.items()]
    tag_list = [RunTag(name, value[:MAX_TAG_CHARS]) for name, value in tags.items()]
    if len(metrics) + len(param_list) + len(tag_list) <= _MAX_METRICS and (
        max(len(param_list), len(tag_list)) <= _MAX_OTHERS
    ):
        if metrics or param_list or tag_list:
            client.log_batch(run_id, metrics, param_list, tag_list)
        return
    for part in _chunks(param_list, _MAX_OTHERS):
        client.log_batch(run_id, params=part)
    for part in _chunks(metrics, _MAX_METRICS):
        client.log_batch(run_id, metrics=part)
    for part in _chunks(tag_list, _MAX_OTHERS):
        client.log_batch(run_id, tags=part)


def write_artifacts(client: Any, run_id: str, files: Mapping[str, str | bytes]) -> None:
    """Write texts and pictures as files at the run's artifact root, over those there."""
    if not files:
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        client.log_artifacts(run_id, folder)


def _chunks(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
