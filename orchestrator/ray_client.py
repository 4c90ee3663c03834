"""A cluster's job server by Ray Client: what lies behind ``ray://``.

Its requests are made by tasks on the cluster's head, where its dashboard answers; no port but Ray
Client's is used. What tasks return is unpickled here: it is for clusters that are trusted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

# Read by Ray when Ray Client is first used: how long one of three tries to reach it may take.
os.environ.setdefault("RAY_CLIENT_INITIAL_CONNECTION_TIMEOUT_S", "3")
os.environ.setdefault("RAY_CLIENT_MAX_CONNECTION_TIMEOUT_S", "3")

import grpc
import ray
import requests
from ray.exceptions import AuthenticationError, GetTimeoutError, RayError, RayTaskError
from ray.job_submission import JobSubmissionClient
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.addresses import host_and_port

_PATIENCE_S = 60
_POLL_S = 1
_PROBE_S = 3
_PING = "/ray.rpc.RayletDriver/ClusterInfo"
_NOT_STARTED = (
    "the head could not start Ray Client's server for this machine; where its log there "
    "(ray_client_server_*.err) is empty, gRPC crashed: try again, or start Ray on the head with "
    "GRPC_ENABLE_FORK_SUPPORT=0 in its environment"
)


class ClientOnHead(JobSubmissionClient):  # type: ignore[misc]
    """Ray's client of a job server, each of whose requests is made on the cluster's head.

    Args:
        address: ``ray://HOST[:PORT]``.

    Raises:
        AuthenticationError: the cluster wants its token.
        OSError, RuntimeError: it cannot be used; the first line says why.
    """

    def __init__(self, address: str) -> None:
        dashboard = _connect(address)
        here = ray.get_runtime_context().get_node_id()  # of Ray Client's server: the head
        on_head = ray.remote(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        )
        self._request, self._log_from = on_head(requests.request), on_head(_log_reader())
        super().__init__(f"http://{dashboard}")

    def _do_request(
        self, method: str, endpoint: str, *, json_data: Any = None, **options: Any
    ) -> requests.Response:
        url = self._address + endpoint
        answer: requests.Response = self._ask(
            self._request, method, url, json=json_data, **self._how, **options
        )
        if answer.status_code in (requests.codes.unauthorized, requests.codes.forbidden):
            raise AuthenticationError(answer.text)
        return answer

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        """Yield what a job says until it has ended; only what is new comes over the network."""
        url, shown, ended = f"{self._address}/api/jobs/{job_id}/logs", 0, False
        while not ended:
            ended = self.get_job_info(job_id).status.is_terminal()
            new: str = self._ask(self._log_from, shown, url, **self._how)
            shown += len(new)
            if new:
                yield new
            if not ended:
                await asyncio.sleep(_POLL_S)

    @property
    def _how(self) -> dict[str, Any]:
        return {"headers": self._headers, "timeout": _PATIENCE_S}

    def _ask(self, on_head: Any, *arguments: Any, **options: Any) -> Any:
        """Return what a task returns; raise what it raises."""
        if not ray.util.client.ray.is_connected():
            raise ConnectionError("the connection was lost")
        try:
            return ray.get(on_head.remote(*arguments, **options), timeout=2 * _PATIENCE_S)
        except (GetTimeoutError, requests.Timeout):
            raise TimeoutError(f"no answer within {_PATIENCE_S} s") from None
        except RayTaskError as error:
            raise error.cause from None
        except RayError as error:
            raise ConnectionError(str(error)) from None


def _log_reader() -> Callable[..., str]:
    """Return what reads a log from a character on.

    Nested, it is sent as a whole: the cluster need not have this module.
    """

    def log_from(start: int, url: str, *, headers: Any, timeout: float) -> str:
        answer = requests.get(url, headers=headers, timeout=timeout)
        answer.raise_for_status()
        return str(answer.json()["logs"][start:])

    return log_from


def _connect(address: str) -> str:
    """Connect this process to a cluster by Ray Client and return its dashboard's ``HOST:PORT``."""
    host, port = host_and_port(address)
    server = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        with warnings.catch_warnings(action="ignore"):
            context = ray.init(f"ray://{server}", log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionAbortedError as error:
        text = str(error)
        raise ConnectionError(_NOT_STARTED if "server failed" in text else _last(text)) from None
    except ConnectionError:
        if _wants_token(server):
            raise AuthenticationError("") from None
        raise ConnectionError("no Ray Client answers there") from None
    except RuntimeError as error:
        raise RuntimeError(_mismatch(str(error)) or str(error)) from None
    if not context.dashboard_url:
        raise RuntimeError("no dashboard runs there: the head lacks ray[default]")
    return str(context.dashboard_url)


def _last(text: str) -> str:
    return text.strip().splitlines()[-1]


def _wants_token(server: str) -> bool:
    """Whether a server refuses requests without a token."""
    with grpc.insecure_channel(server) as channel:
        try:
            channel.unary_unary(_PING)(b"", timeout=_PROBE_S)
        except grpc.RpcError as error:
            return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)
    return False


def _mismatch(text: str) -> str | None:
    """Return Ray's lines about two versions, the cluster's and ours, as a sentence."""
    versions = re.findall(r"(?:Ray|Python): (\S+)", text)
    if len(versions) != 4:
        return None
    there, here = (f"Ray {v[0]} on Python {v[1]}" for v in (versions[:2], versions[2:]))
    return (
        f"the cluster has {there}, this machine {here}; Ray Client needs the same Ray and the same "
        "minor version of Python on both (--address http://HOST:8265 does not)"
    )
