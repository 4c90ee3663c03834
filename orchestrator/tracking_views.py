"""Views of a sweep that MLflow's UI offers under *Views*: columns, filter, order and charts chosen.

The UI keeps a view in a tag of the experiment, as JSON with the state of the page. What is here is
what MLflow 3.17 writes itself when a person saves such a view; another version that reads it
otherwise shows the page as it would without a view.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.scores import label

VIEW_TAG = "mlflow.sharedViewState."
"""Begins the experiment's tag that holds a view; the view's id follows."""

COST_METRICS = {
    "macs": "macs_ratio",
    "num_params": "num_params",
    "activation_bytes": "activation_bytes",
    "latency_ms": "predicted_latency_ms",
}
"""The metric that a trial's cost in a resource is compared by."""

_NAMES = {"trials": "trials, best first", "budgets": "budgets compared", "front": "the front"}

_FIRST_COLUMNS = {"1": 73, "attributes.`Run Name`": 270}
_LAST_COLUMNS = {"runDateAndNestInfo": 150, "duration": 80}
"""Columns that the UI always shows, and their widths in pixels; ``1`` has the boxes to tick."""


def view_ids(sweep_id: str) -> dict[str, str]:
    """Return the ids of a sweep's views: of its ``trials``, ``budgets`` and ``front``."""
    return {kind: f"pas-{sweep_id.rpartition('-')[2]}-{kind}" for kind in _NAMES}


def view_link(experiment_id: str, view_id: str, *, charts: bool = False) -> str:
    """Return the address of a view, relative to that of the UI."""
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"{page_link(experiment_id, 'runs')}&viewStateShareKey={view_id}{mode}"


def page_link(experiment_id: str, page: str) -> str:
    """Return the address of a page of an experiment; the UI's menu is then that for training."""
    return f"#/experiments/{experiment_id}/{page}?workflowType=machine_learning"


def view_tags(
    sweep_id: str,
    resource: str,
    hyperparameters: Sequence[str],
    now_ms: int,
    metric: str = "accuracy",
    *,
    higher_is_better: bool = True,
) -> dict[str, str]:
    """Return the experiment's tags that hold the views of a sweep.

    Args:
        sweep_id: the sweep's name and hash.
        resource: what its budgets limit.
        hyperparameters: names of those that vary.
        now_ms: milliseconds since 1970.
        metric, higher_is_better: what its networks are compared by.
    """
    cost = COST_METRICS[resource]
    of_sweep = f"tags.`pas.sweep_id` = '{sweep_id}' and tags.`pas.kind` = 'trial'"
    filters = {
        "trials": (of_sweep, f"metrics.`{metric}`", not higher_is_better),
        "budgets": (f"{of_sweep} and tags.`pas.status` = 'FINISHED'", "params.`number`", True),
        "front": (f"{of_sweep} and tags.`pas.on_front` = 'true'", f"metrics.`{cost}`", True),
    }
    columns = _columns(cost, metric, hyperparameters)
    shared = {
        "selectedColumns": columns,
        "columnOrder": [*_FIRST_COLUMNS, *columns, *_LAST_COLUMNS],
        "columnWidths": {**_FIRST_COLUMNS, **dict.fromkeys(columns, 100), **_LAST_COLUMNS},
        "runsHiddenMode": "SHOW_ALL",
        **_charts(cost, metric, hyperparameters),
    }
    tags = {}
    for kind, view_id in view_ids(sweep_id).items():
        text, key, ascending = filters[kind]
        state = {"searchFilter": text, "orderByKey": key, "orderByAsc": ascending, **shared}
        view = {
            "name": f"{sweep_id}: {_NAMES[kind]}",
            "createdAt": now_ms,
            "updatedAt": now_ms,
            "state": json.dumps(state, separators=(",", ":")),
        }
        tags[VIEW_TAG + view_id] = json.dumps(view)
    return tags


def _columns(cost: str, metric: str, hyperparameters: Sequence[str]) -> list[str]:
    metrics = dict.fromkeys([metric, f"test_{metric}", cost, "num_params", "latency_ms"])
    return [
        *(f"params.`{name}`" for name in ("budget", "strength")),
        *(f"metrics.`{name}`" for name in metrics),
        *(f"tags.`{name}`" for name in ("pas.status", "pas.on_front")),
        *(f"params.`{name}`" for name in hyperparameters),
    ]


def _title(metric: str) -> str:
    text = label(metric)
    return text[:1].upper() + text[1:]


def _charts(cost: str, metric: str, hyperparameters: Sequence[str]) -> dict[str, Any]:
    """Return the charts of a sweep, in a section of their own above the one for further ones."""
    sections = [("pas-compare", "Budgets and strengths", 2), ("pas-epochs", "Epochs", 2)]
    score, name = _metric(metric), _title(metric)
    cards = [
        _card("scatter", f"{name} against cost", "SCATTER", xaxis=_metric(cost), yaxis=score),
        _card(
            "parallel",
            "Budget, strength and hyper-parameters",
            "PARALLEL",
            selectedParams=["budget", "strength", *hyperparameters],
            selectedMetrics=[cost, metric],
            showAllRuns=False,
        ),
        _card(
            "strength",
            f"{name} by strength",
            "SCATTER",
            xaxis={"key": "strength", "type": "PARAM"},
            yaxis=score,
        ),
        _card(
            "latency",
            f"{name} against latency",
            "SCATTER",
            xaxis=_metric("latency_ms"),
            yaxis=score,
        ),
        *(
            _card(key, title, "LINE", "pas-epochs", metricKey=key, selectedMetricKeys=[key])
            for key, title in (
                (f"epoch_{metric}", f"{name} by epoch"),
                ("epoch_macs_ratio", "Share of the MACs by epoch"),
            )
        ),
    ]
    return {
        "compareRunCharts": cards,
        "compareRunSections": [
            {
                "uuid": section,
                "name": name,
                "display": True,
                "isReordered": True,
                "deleted": False,
                "isGenerated": False,
                "columns": columns,
                "cardHeight": 360,
            }
            for section, name, columns in sections
        ],
        "isAccordionReordered": True,
    }


def _metric(name: str) -> dict[str, str]:
    return {"key": name, "type": "METRIC"}


def _card(
    name: str, title: str, kind: str, section: str = "pas-compare", **more: Any
) -> Mapping[str, Any]:
    return {
        "uuid": f"pas-{name}",
        "type": kind,
        "displayName": title,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 1000,
        **more,
    }
