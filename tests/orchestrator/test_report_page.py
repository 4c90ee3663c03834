"""The page needs no network and takes everything in it for text, whatever it is."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser

import pytest
import yaml

from orchestrator.config import SweepConfig
from orchestrator.importance import Importance
from orchestrator.records import TrialRecord
from orchestrator.report import SweepReport
from orchestrator.report_figures import Curve
from orchestrator.report_page import render
from orchestrator.tracking_reader import SweepInfo


class Page(HTMLParser):
    """Elements with their attributes, and the text outside scripts by section."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], {}
        self._section, self._skips = "header", False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self._skips = tag in {"script", "style"}
        if tag == "section":
            self._section = dict(attrs)["id"]

    def handle_endtag(self, tag):
        self._skips = False

    def handle_data(self, data):
        if not self._skips:
            self.texts[self._section] = self.texts.get(self._section, "") + data


def report(name="tiny", trial="b0.5-s10-0", layer="conv1", error="it broke", **changes):
    config = SweepConfig.model_validate(
        {
            "name": "tiny",
            "data": {"name": "digits"},
            "supernet": {"name": "repvgg_tiny"},
            "budget": {"limits": [0.5]},
            "strengths": [10],
            "max_failures_per_cell": 2,
            "trials_per_cell": 4,
        }
    )
    common = {"sweep_id": "s", "budget": 0.5, "strength": 10.0}
    best = TrialRecord(
        trial_id=trial,
        status="FINISHED",
        number=0,
        macs=480,
        macs_ratio=0.48,
        num_params=77,
        score=0.9321,
        test_score=0.9123,
        search_seconds=3600.0,
        finetune_seconds=10800.0,
        widths={layer: 3},
        hyperparameters={"learning_rate": 0.05},
        **common,
    )
    failures = [
        TrialRecord(trial_id=f"f{n}", status="FAILED", number=n, error=error, **common)
        for n in (1, 2)
    ]
    values = {
        "info": SweepInfo(
            sweep_id=name,
            name=name,
            run_id="r",
            experiment_id="1",
            resource="macs",
            status="FINISHED",
            start_time_ms=0,
            end_time_ms=60_000,
            supernet_cost=1000.0,
            supernet_macs=1000,
            supernet_score=0.95,
            totals={"cpu_seconds": 18000.0, "price": 1.25, "compute_saved": 0.1},
            currency="EUR",
        ),
        "records": [best, *failures],
        "config": config,
        "sweep_file": yaml.safe_dump({"name": name}),
        "supernet_widths": {layer: 8},
        "curves": {trial: Curve(epochs=[1], macs_ratio=[1.0], score=[0.5], num_search=0)},
        "importance": Importance(reason="Too few."),
        "made_ms": 120_000,
    }
    return SweepReport(**values | changes)


@pytest.fixture(scope="module")
def whole():
    return render(report())


def test_every_section_says_what_it_is_about(whole):
    texts = Page(whole).texts
    assert "tiny" in texts["header"]
    for words in ("1 finished, 2 failed; 4 planned", "95.00 % validation", "1970-01-01 00:01 UTC"):
        assert words in texts["header"]
    assert "93.21 %" in texts["front"]
    assert "91.23 %" in texts["front"]
    assert "Too few." in texts["importance"]
    for words in ("5.00", "1.25 EUR", "10%", "search", "75%"):
        assert words in texts["compute"]
    assert texts["failures"].count("it broke") == 2
    assert "Given up after 2 failures in a row: b0.5-s10." in texts["failures"]
    assert "--number 0 --hyperparameter learning_rate=0.05" in texts["reproduce"]
    assert "name: tiny" in texts["reproduce"]
    divs = {value for key, value in Page(whole).attributes if key == "id"}
    assert {f"figure-{name}" for name in ("front", "cells", "widths", "curves")} <= divs


def test_nothing_is_fetched(whole):
    page = Page(whole)
    assert {key for key, _ in page.attributes} & {"src", "href", "srcset", "data"} == set()
    assert {"link", "iframe", "img", "object", "base"} & set(page.tags) == set()
    policy = dict(page.attributes)["content"]
    policies = [value for key, value in page.attributes if key == "content"]
    assert any(value.startswith("default-src 'none'") for value in policies), policy
    assert not any("http" in value for value in policies)
    assert len(whole) < 5.5e6  # one plotly.js
    assert whole.count("plotly.js v") <= 2


def test_names_from_outside_are_text(whole):
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    page = render(report(name=hostile, trial=hostile, layer=hostile, error=hostile))
    assert Page(page).tags == Page(whole).tags
    assert hostile in Page(page).texts["header"]
    assert hostile in Page(page).texts["failures"]
    assert "<script>alert" not in page
    assert "<img" not in page.removeprefix(whole[: whole.index("</head>")])


def test_a_sweep_without_any_trial_has_its_page():
    empty = report(records=[], curves={}, supernet_widths=None)
    info = dataclasses.replace(
        empty.info, status="RUNNING", end_time_ms=None, supernet_cost=None, totals={}
    )
    texts = Page(render(dataclasses.replace(empty, info=info))).texts
    assert "still running" in texts["header"]
    assert "none yet; 4 planned" in texts["header"]
    assert "No trial has started yet." in texts["cells"]
    assert "No network is on the front yet." in texts["widths"]
    assert "No trial has failed." in texts["failures"]
    assert "not yet" in texts["header"]


def test_trials_that_all_failed_have_their_page():
    failed = report()
    texts = Page(render(dataclasses.replace(failed, records=failed.records[1:], curves={}))).texts
    assert "2 failed; 4 planned" in texts["header"]
    assert "No network is on the front yet." in texts["widths"]


def test_a_supernet_whose_widths_are_not_known_is_told():
    texts = Page(render(report(supernet_widths=None))).texts
    assert "The supernet's widths are not recorded" in texts["widths"]
