"""Searches of MLflow that come in pages."""

from __future__ import annotations

from typing import Any


def paged(search: Any, **query: Any) -> list[Any]:
    """Return all results of a search of MLflow.

    Args:
        search: for example ``client.search_runs``; called once per page.
        query: its arguments; pages are as long as MLflow's client has them by default, unless
            ``max_results`` is among them.

    Raises:
        MlflowException: the store failed.
    """
    found: list[Any] = []
    token = None
    while True:
        page = search(**query, page_token=token)
        found.extend(page)
        token = page.token
        if not token:
            return found
