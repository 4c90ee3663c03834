from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus

from orchestrator.submitted import metadata_of, sweep_job


def info(**changes):
    fields = {
        "submission_id": "pas-a-1234-12",
        "metadata": metadata_of("a-1234", "a"),
        "status": JobStatus.RUNNING,
        "driver_exit_code": None,
        "start_time": 1,
        "end_time": None,
        "message": "Job is currently running.",
    }
    return SimpleNamespace(**{**fields, **changes})


@pytest.mark.parametrize(
    ("status", "code", "outcome"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", None, 1), ("STOPPED", None, 130)],
)
def test_a_job_ends_as_its_sweep_did(status, code, outcome):
    job = sweep_job(
        info(status=JobStatus(status), driver_exit_code=code, message="log:\npas: no\n")
    )
    assert job is not None
    assert (job.has_ended, job.outcome, job.number) == (True, outcome, 12)
    assert job.message == ("pas: no" if status == "FAILED" else "")
    assert job.to_json()["sweep_id"] == "a-1234"


def test_a_job_that_runs_has_not_ended():
    job = sweep_job(info())
    assert job is not None
    assert not job.has_ended


def test_other_peoples_jobs_are_left_out():
    assert sweep_job(info(metadata=None)) is None
    assert sweep_job(info(submission_id=None)) is None


def test_a_cluster_without_the_program_is_told():
    job = sweep_job(info(status=JobStatus.FAILED, driver_exit_code=127, message="sh: not found"))
    assert job is not None
    assert "--code" in job.message
