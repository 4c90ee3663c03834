"""Reports on what real stores hold, written when a sweep ends and on demand."""

from __future__ import annotations

import itertools
import json
import sqlite3

import pytest
from sweep_stores import runs_of

from orchestrator.errors import UserError
from orchestrator.records import TrialRecord
from orchestrator.report import MOST_MEMBERS, check_out, collect, log_report, thinned
from orchestrator.tracking import SweepTracker
from orchestrator.tracking_reader import find_sweep
from orchestrator.tracking_server import open_client

pytestmark = pytest.mark.slow


@pytest.fixture
def uri(finished, tmp_path):
    """A copy of the store of a finished sweep."""
    copy = tmp_path / "mlflow.db"
    with sqlite3.connect(finished.home / "mlflow.db") as store, sqlite3.connect(copy) as to:
        store.backup(to)
    return f"sqlite:///{copy}"


def test_a_finished_sweep_has_its_report(finished):
    client, sweep, trials = runs_of(finished)
    names = {item.path for item in client.list_artifacts(sweep.info.run_id)}
    assert {"report.html", "supernet_widths.json"} <= names
    assert not any(
        item.path == "report.html"
        for trial in trials
        for item in client.list_artifacts(trial.info.run_id)
    )
    done = finished.here(
        "report", "tiny", "--out", str(finished.file.parent / "page.html"), "--json"
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    front = [trial["trial_id"] for trial in finished.json("pareto", "tiny")["trials"]]
    assert set(document["front"]) == set(front)
    page = (finished.file.parent / "page.html").read_text()
    assert all(trial_id in page for trial_id in front)


def test_a_report_holds_what_mlflow_holds(uri):
    info = find_sweep(uri, "tiny")
    report = collect(uri, info)
    assert info.supernet_macs == info.supernet_cost
    assert len(report.records) == 4
    assert report.limits == {b: b * info.supernet_cost for b in (0.5, 0.25)}
    for member in report.members:
        assert member.widths.keys() == report.supernet_widths.keys()
        assert all(member.widths[n] <= report.supernet_widths[n] for n in member.widths)
        curve = report.curves[member.trial_id]
        assert (list(curve.epochs), curve.num_search) == (list(range(1, 9)), 3)
        assert curve.widths.keys() == member.widths.keys()
        assert {len(values) for values in curve.widths.values()} == {3}
        assert curve.macs_ratio[-1] == pytest.approx(member.macs_ratio, abs=0.01)
    assert "single hyper-parameter" in report.importance.reason
    assert report.given_up == []


def start(uri, sweep_file, **artifacts):
    return SweepTracker(
        uri=uri,
        sweep_id="other-1",
        name="other",
        experiment="other",
        params={"resource": "macs"},
        tags={},
        artifacts={"sweep.yaml": sweep_file, **artifacts},
    ).start()


OTHER = """
name: other
data: {name: digits}
supernet: {name: repvgg_tiny}
budget: {limits: [0.5, 30000]}
strengths: [10]
max_failures_per_cell: 2
"""


def test_a_sweep_that_runs_is_reported_as_far_as_it_is(uri):
    tracker = start(uri, OTHER)
    try:
        assert collect(uri, find_sweep(uri, "other")).records == []
        common = {"sweep_id": "other-1", "budget": 0.5, "strength": 10.0}
        for number in range(3):
            status = "RUNNING" if number == 0 else "FAILED"
            record = TrialRecord(trial_id=f"t{number}", number=number, status=status, **common)
            tracker.trial_started(record)
            if number:
                tracker.trial_finished(record, {})
        control = TrialRecord(
            trial_id="control-supernet",
            number=0,
            status="FINISHED",
            control="supernet",
            macs=1000,
            macs_ratio=1.0,
            score=0.9,
            widths={"a": 8},
            **common,
        )
        tracker.trial_started(control)
        tracker.trial_finished(control, {})
    finally:
        tracker.close("KILLED")
    report = collect(uri, find_sweep(uri, "other"))
    assert report.limits == {30000: 30000}  # the supernet's cost is not known yet
    assert [cell.name for cell in report.given_up] == ["b0.5-s10"]
    assert report.supernet_widths == {"a": 8}
    assert report.members == []
    log_report(uri, "other-1")
    client = open_client(uri)
    names = {item.path for item in client.list_artifacts(report.info.run_id)}
    assert "report.html" in names


@pytest.mark.parametrize("sweep_file", ["- a\n- b\n", "a: [", "name: other\n"])
def test_a_sweep_file_that_is_none_is_told(uri, sweep_file):
    start(uri, sweep_file).close("KILLED")
    with pytest.raises(UserError, match=r"sweep\.yaml of sweep other-1"):
        collect(uri, find_sweep(uri, "other"))


def test_a_report_that_cannot_be_logged_is_a_warning(tmp_path, caplog):
    log_report(f"sqlite:///{tmp_path}/none.db", "tiny")
    assert "report.html was not logged: there is no sweep 'tiny'" in caplog.text


def test_a_page_that_cannot_be_written_is_refused(finished, tmp_path):
    for out, words in ((tmp_path, "is a folder"), (tmp_path / "no" / "a.html", "does not exist")):
        with pytest.raises(UserError, match=f"--out {out}.*{words}"):
            check_out(out)
    check_out(tmp_path / "a.html")
    refused = finished.here("report", "tiny", "--out", str(tmp_path))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"pas: --out {tmp_path} is a folder; name a file in it\n"


@pytest.mark.parametrize("count", [0, 1, MOST_MEMBERS, MOST_MEMBERS + 1, 1000])
def test_a_long_front_is_thinned_evenly(count):
    kept = thinned(range(count))
    assert len(kept) == len(set(kept)) == min(count, MOST_MEMBERS)
    assert kept == sorted(kept)
    if count:
        assert (kept[0], kept[-1]) == (0, count - 1)
        gaps = [after - before for before, after in itertools.pairwise(kept)]
        assert max(gaps, default=1) - min(gaps, default=1) <= 1
