"""A sweep as a job of a real cluster that wants a token, from a machine without its home folder."""

from __future__ import annotations

import json
import os

import pytest
from ray_head import ray_head

pytestmark = pytest.mark.slow

QUICK = [
    *("--set", "trials_per_cell=1", "--set", "budget.limits=[0.5]", "--set", "pretrain.epochs=1"),
    *("--set", "search.epochs=1", "--set", "finetune.recalibration_batches=1"),
]


@pytest.fixture(scope="module")
def cluster_pas(make_pas, tmp_path_factory):
    """The command line on the cluster's own home folder."""
    return make_pas(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def head(cluster_pas):
    secret = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "do-not-show-me"}
    with ray_head({"PAS_HOME": str(cluster_pas.home), **secret}) as head:
        yield head


@pytest.fixture
def token(head, monkeypatch):
    for name, value in head.token.items():
        monkeypatch.setenv(name, value)


def told(pas, *arguments):
    """What a process tells in JSON: Ray reads the token once in a process."""
    done = pas(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_sweep_is_submitted_followed_stopped_and_run_to_its_end(pas, cluster_pas, head, token):
    there = ["--address", head.jobs]
    endless = ["sweep", str(pas.file), *there, *QUICK, "--set", "finetune.epochs=100000"]
    job = told(pas, *endless, "--detach", "--code")
    assert job["name"] == "tiny"
    assert job["job_id"] == f"pas-{job['sweep_id']}-1"

    follower = pas.start_until_output("finetune 1/", "logs", "tiny", "--follow", *there)
    again = pas(*endless, "--detach")
    assert again.returncode == 2
    assert f"is being run by job {job['job_id']} already" in again.stderr

    stopped = told(pas, "stop", "tiny", *there)
    assert stopped == {"sweep_id": job["sweep_id"], "job_id": job["job_id"], "was_running": True}
    assert "interrupted; the same command goes on" in follower.communicate(timeout=60)[0]
    assert follower.returncode == 0
    swept = cluster_pas.json("status", job["sweep_id"])
    assert (swept["status"], swept["trials"][0]["status"]) == ("KILLED", "KILLED")

    outcome = told(
        pas, "sweep", str(pas.file), *there, *QUICK, "--set", "finetune.epochs=1", "--new"
    )
    assert [trial["status"] for trial in outcome["trials"]] == ["FINISHED"]
    listed = pas("status", "--json", *there)
    jobs = json.loads(listed.stdout)["jobs"]
    assert [(job["state"], job["exit_code"]) for job in jobs] == [
        ("SUCCEEDED", 0),
        ("STOPPED", None),
    ]
    assert "do-not-show-me" not in listed.stdout
    assert not pas.home.exists()


long_form = pytest.mark.skipif("PAS_CHAOS_FAULTS" not in os.environ, reason="part of make chaos")


@long_form
def test_a_finished_sweep_is_extended_by_a_job(pas, cluster_pas, head, token):
    there = ["--address", head.jobs]
    name = ("--set", "name=longer", "--set", "finetune.epochs=1")
    swept = told(pas, "sweep", str(pas.file), *there, *QUICK, *name)
    extended = told(pas, "extend", swept["sweep_id"], "--trials", "2", *there)
    assert extended["sweep_id"] == swept["sweep_id"]
    assert [trial["status"] for trial in extended["trials"]] == ["FINISHED", "FINISHED"]
    (first,) = swept["trials"]
    kept = next(t for t in extended["trials"] if t["trial_id"] == first["trial_id"])
    for known in ("widths", "accuracy", "search_seconds", "finetune_seconds"):
        assert kept[known] == first[known]
    assert not pas.home.exists()


@long_form
def test_ray_client_is_another_way_there(pas, head, token):
    there = ["--address", head.client]
    endless = ["sweep", str(pas.file), *there, *QUICK, "--set", "finetune.epochs=100000"]
    follower = pas.start_until_output("finetune 1/", *endless, "--set", "name=beyond", "--code")

    stopped = told(pas, "stop", "beyond", *there)
    assert stopped["was_running"]
    assert "interrupted; the same command goes on" in follower.communicate(timeout=60)[0]
    assert follower.returncode == 130
    log = told(pas, "logs", "beyond", *there)
    assert (log["sweep_id"], log["job_id"]) == (stopped["sweep_id"], stopped["job_id"])
    assert "interrupted; the same command goes on" in log["log"]
    listed = pas("status", "beyond", "--json", *there)
    assert [job["state"] for job in json.loads(listed.stdout)["jobs"]] == ["STOPPED"]
    assert not pas.home.exists()


def test_without_the_token_nothing_is_told(pas, head, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))  # without a token in ~/.ray
    for mode, value, address in (
        ("disabled", "", head.jobs),
        ("token", "", head.jobs),
        ("token", "0" * 64, head.jobs),
    ):
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        monkeypatch.setenv("RAY_AUTH_TOKEN", value)
        done = pas("status", "--address", address, timeout=60)
        assert done.returncode == 2
        assert "wants its token: set RAY_AUTH_MODE=token" in done.stderr
        assert "Traceback" not in done.stderr
