"""A replica of Ray Serve: the serving application, whose jobs are classified in batches.

With :mod:`orchestrator.serving_session` all that knows Ray Serve.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from ray import serve
from starlette.types import ASGIApp

from deploy.serving_app import build_app
from deploy.serving_metrics import Metrics
from deploy.serving_model import Job, ModelWatch, Outcome, classify_together
from deploy.serving_requests import Limits
from deploy.serving_service import Service

LOG = logging.getLogger("ray.serve")
_LOOK_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaSettings:
    """What a replica is started with.

    Attributes:
        pointer: file that names the model, see :class:`deploy.serving_model.Pointer`.
        token_digest: see :func:`deploy.serving_service.digest_of`.
        limits: what requests may cost.
        batch_images: classified together, at most.
        batch_wait_s: for how long the first request of a batch waits for others.
        threads: that compute.
        local: whether all of Serve is on this machine, and shall be reached from it alone.
    """

    pointer: str
    token_digest: str | None = None
    limits: Limits = field(default_factory=Limits)
    batch_images: int = 64
    batch_wait_s: float = 0.002
    threads: int = 1
    local: bool = True


def _num_images(jobs: Sequence[Job]) -> int:
    return sum(len(job.images) for job in jobs)


@serve.ingress()
class Replica:
    """The application with its model, in a process of its own."""

    def __init__(self, settings: ReplicaSettings) -> None:
        if settings.local:
            _keep_to_loopback()
        torch.set_num_threads(settings.threads)
        self._metrics = Metrics()
        self._watch = ModelWatch(Path(settings.pointer))
        self._refresh()
        self._service = Service(
            lambda: self._watch.model,
            self._classify,
            self._metrics,
            settings.limits,
            settings.token_digest,
        )
        self._classify.set_max_batch_size(settings.batch_images)
        self._classify.set_batch_wait_timeout_s(settings.batch_wait_s)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return build_app(self._service, self._follow)

    @serve.batch(batch_size_fn=_num_images)  # type: ignore[untyped-decorator]
    async def _classify(self, jobs: list[Job]) -> list[Outcome]:
        return await asyncio.to_thread(classify_together, jobs)

    def _refresh(self) -> None:
        if self._watch.refresh() and (model := self._watch.model):
            self._metrics.serves(model.manifest.model, model.manifest.version)

    async def _follow(self) -> None:
        """Serve what the pointer names, whenever it names another; the old one until then."""
        said = ""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await asyncio.to_thread(self._refresh)
            except Exception as error:  # whatever it is, what is served goes on
                if said != (said := str(error)):
                    LOG.warning("the model to be served next cannot be loaded: %s", error)


def _keep_to_loopback() -> None:
    """Have the port between replicas, which Serve binds on every interface, bound on loopback.

    Ray Serve has no setting for this. A test looks at what is bound.
    """
    from ray.serve._private import replica

    bind = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, _: bind(server, "127.0.0.1:0")
