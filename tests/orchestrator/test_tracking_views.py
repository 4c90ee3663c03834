"""Views for MLflow's UI: envelopes as it writes them, and filters that its search understands."""

from __future__ import annotations

import json

import pytest
from mlflow.utils.search_utils import SearchUtils
from mlflow.utils.validation import MAX_EXPERIMENT_TAG_VAL_LENGTH

from orchestrator.tracking_views import COST_METRICS, VIEW_TAG, view_ids, view_link, view_tags
from search_space import RESOURCES


@pytest.mark.parametrize("resource", RESOURCES)
def test_views_are_what_the_ui_reads(resource):
    names = [f"hyperparameter_{n}" for n in range(12)]
    tags = view_tags("digits-1a2b3c", resource, names, 1000)
    assert sorted(tags) == sorted(VIEW_TAG + v for v in view_ids("digits-1a2b3c").values())
    for text in tags.values():
        assert len(text) < MAX_EXPERIMENT_TAG_VAL_LENGTH
        view = json.loads(text)
        assert (view["createdAt"], type(view["state"])) == (1000, str)
        state = json.loads(view["state"])
        clauses = SearchUtils.parse_search_filter(state["searchFilter"])
        assert clauses[0] | {"value": "digits-1a2b3c"} == clauses[0]
        assert set(state["selectedColumns"]) < set(state["columnOrder"])
        sections = {section["uuid"] for section in state["compareRunSections"]}
        assert {card["metricSectionId"] for card in state["compareRunCharts"]} == sections
        first = state["compareRunCharts"][0]
        assert (first["xaxis"]["key"], first["yaxis"]["key"]) == (
            COST_METRICS[resource],
            "accuracy",
        )


def test_links_lead_to_table_or_charts():
    assert view_link("7", "pas-x") == (
        "#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=pas-x"
    )
    assert view_link("7", "pas-x", charts=True).endswith("pas-x&compareRunsMode=CHART")
