"""Sweeps as jobs of a Ray cluster's job server.

With :mod:`orchestrator.ray_client`, for ``ray://``, all that knows Ray's job submission.

A job is named after its sweep, and its metadata hold the sweep's id and name. Ray shows metadata,
runtime environments and entrypoints on its dashboard: no credentials are ever in them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import requests

from orchestrator.addresses import LOCKED, check_address, is_ray_client, takes_jobs
from orchestrator.driver import STOP_WAIT_S
from orchestrator.errors import UserError
from orchestrator.submission import NEVER_SENT
from orchestrator.submitted import SweepJob, metadata_of, sweep_job

# Read by Ray when it is imported: 'uv run pas' does not make uv a need of the cluster.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

_TIMEOUT_S = 10
_POLL_S = 0.5
_AWAY_S = 60
_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


class JobServer:
    """The job server of a cluster.

    Args:
        address: ``http(s)://HOST:PORT`` of the dashboard, ``ray://HOST:PORT`` of Ray Client,
            ``auto`` or ``HOST:PORT`` of the head.

    Raises:
        UserError: it cannot be reached, wants a token, or this machine lacks ``ray[default]``.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        check_address(address)
        with self._told(), _own_address(address):
            by_client = is_ray_client(address)
            if takes_jobs(address) and not by_client:  # Ray would wait for ever for a silent one
                requests.get(address.rstrip("/") + "/api/version", timeout=_TIMEOUT_S)
            from ray.job_submission import JobSubmissionClient

            for name in _TALKATIVE:
                logging.getLogger(name).setLevel(logging.WARNING)
            if by_client:
                from orchestrator.ray_client import ClientOnHead

                self._client = ClientOnHead(address)
            else:
                self._client = JobSubmissionClient(address)

    def jobs(self, sweep: str | None = None) -> list[SweepJob]:
        """Return the jobs of all sweeps, or of one (id or name), the latest first."""
        with self._told():
            found = [sweep_job(info) for info in self._client.list_jobs()]
        jobs = [job for job in found if job is not None]
        if sweep is not None:
            jobs = [job for job in jobs if sweep in {job.sweep_id, job.name}]
        return sorted(jobs, key=lambda job: job.start_time_ms or 2**63, reverse=True)

    def latest(self, sweep: str) -> SweepJob:
        """Return the latest job of a sweep (id or name).

        Raises:
            UserError: there is none.
        """
        jobs = self.jobs(sweep)
        if not jobs:
            known = ", ".join(dict.fromkeys(job.name for job in self.jobs()))
            raise UserError(
                f"no sweep {sweep!r} was submitted to the cluster at {self._address} since it "
                f"was started; submitted were: {known or 'none'}"
            )
        return jobs[0]

    def sweep_named(self, sweep: str) -> tuple[str, str]:
        """Return id and name of a sweep (id or name); as given, if no job of it is known here."""
        jobs = self.jobs(sweep)
        return (jobs[0].sweep_id, jobs[0].name) if jobs else (sweep, sweep)

    def submit(
        self, sweep_id: str, name: str, entrypoint: str, py_modules: Sequence[str] = ()
    ) -> SweepJob:
        """Submit a job that runs a sweep.

        Args:
            sweep_id, name: of the sweep.
            entrypoint: shell command.
            py_modules: folders of packages that travel with it.

        Raises:
            UserError: a job of this sweep is under way.
        """
        before = self.jobs(sweep_id)
        for job in before:
            if not job.has_ended:
                raise UserError(
                    f"sweep {sweep_id} is being run by job {job.job_id} already; follow it with "
                    f"'pas logs {sweep_id} --follow --address {self._address}' or end it with "
                    f"'pas stop {sweep_id} --address {self._address}'"
                )
        number = 1 + max((job.number for job in before), default=0)
        environment: dict[str, Any] = {
            # How long Ray waits between SIGTERM, upon which runs are closed, and SIGKILL.
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)},
        }
        if py_modules:
            environment |= {"py_modules": list(py_modules), "excludes": NEVER_SENT}
        with self._told():
            job_id = self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=f"pas-{sweep_id}-{number}",
                runtime_env=environment,
                metadata=metadata_of(sweep_id, name),
            )
        return self.job(job_id)

    def job(self, job_id: str) -> SweepJob:
        """Return how a job stands."""
        with self._told():
            job = sweep_job(self._client.get_job_info(job_id))
        assert job is not None
        return job

    def log(self, job_id: str) -> str:
        """Return what a job has said so far."""
        with self._told():
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str) -> Iterator[str]:
        """Yield what a job says, from its beginning to its end; lost connections are renewed."""
        shown = 0
        while True:
            ended = self._patiently(job_id).has_ended
            skip = shown
            for piece in _tail(self._client, job_id):
                new, skip = piece[skip:], max(0, skip - len(piece))
                shown += len(new)
                if new:
                    yield new
            if ended:
                return
            time.sleep(_POLL_S)

    def ended(self, job_id: str) -> SweepJob:
        """Wait for a job's end."""
        while not (job := self._patiently(job_id)).has_ended:
            time.sleep(_POLL_S)
        return job

    def _patiently(self, job_id: str) -> SweepJob:
        """As :meth:`job`; a server that is away for a while is asked again."""
        deadline = time.monotonic() + _AWAY_S
        while True:
            try:
                return self.job(job_id)
            except UserError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)

    def stop(self, job_id: str) -> SweepJob:
        """End a job as Ctrl-C does and wait for that; ended ones stay as they are."""
        with self._told():
            self._client.stop_job(job_id)
        return self.ended(job_id)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what Ray and the network raise into one sentence."""
        from ray.exceptions import AuthenticationError

        where = f"the job server at {self._address}"
        try:
            yield
        except AuthenticationError:
            raise UserError(LOCKED.format(address=self._address)) from None
        except requests.Timeout:
            raise UserError(f"{where} did not answer within {_TIMEOUT_S} s") from None
        except (requests.RequestException, OSError, RuntimeError, ImportError, ValueError) as error:
            if "ray[default]" in str(error) or isinstance(error, ImportError):
                raise UserError(
                    "jobs need ray[default] on this machine and on the cluster's head: "
                    "pip install 'pas-orchestrator[cluster]'"
                ) from None
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"{where} cannot be used: {first[:300]}") from None


def _tail(client: Any, job_id: str) -> Iterator[str]:
    """Yield Ray's asynchronous log; a lost connection ends it."""
    import aiohttp

    pieces = client.tail_job_logs(job_id)

    async def next_piece() -> str:
        return str(await anext(pieces))

    with asyncio.Runner() as runner:
        while True:
            try:
                piece = runner.run(next_piece())
            except (StopAsyncIteration, RuntimeError, OSError, aiohttp.ClientError):
                return
            yield piece


@contextmanager
def _own_address(address: str) -> Iterator[None]:
    """Keep Ray from using an address of the environment in place of the one that was given."""
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS") if address != "auto" else ()
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
