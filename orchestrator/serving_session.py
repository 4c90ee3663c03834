"""Ray and Ray Serve for the time that a model is served."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.serving_service import digest_of
from orchestrator.addresses import close_own_ray, is_own
from orchestrator.errors import UserError
from orchestrator.serving import ServingOptions

APP = "pas-serve"
_MIB = 1 << 20
_ROOM = 4
"""Requests may reach a replica beyond its limit by this factor: it refuses them in one sentence."""
_DRAIN_S = 20.0


@contextmanager
def serve_on_ray(options: ServingOptions, pointer: Path, token: str | None) -> Iterator[None]:
    """Serve what a pointer file names; at the end, requests that have begun are still answered.

    Args:
        options: how.
        pointer: the file.
        token: that lets requests in, if one is needed.

    Raises:
        UserError: Ray cannot be reached, serves already, or Serve does not start.
    """
    if is_own(options.address):
        close_own_ray()
    from orchestrator.ray_cluster import ray_session

    with ray_session(options.address, (), **_local_size(options)):
        if _serves_already():
            raise UserError(
                f"the cluster at {options.address} serves something already, at an address that "
                "was chosen then; end that (serve shutdown), or leave out --address"
            )
        try:
            _start(options, pointer, token)
            yield
        finally:
            _end(local=is_own(options.address))


def _local_size(options: ServingOptions) -> dict[str, int]:
    """Room for the replicas, however many processors there are; little for objects."""
    if not is_own(options.address):
        return {}
    return {"num_cpus": options.replicas * options.threads, "object_store_memory": 128 * _MIB}


def _start(options: ServingOptions, pointer: Path, token: str | None) -> None:
    from ray import serve
    from ray.serve.config import HTTPOptions, ProxyLocation
    from ray.serve.schema import LoggingConfig

    from orchestrator.serving_replica import Replica, ReplicaSettings

    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    metrics = pointer.parent / "metrics"
    metrics.mkdir()
    limits = options.limits
    settings = ReplicaSettings(
        pointer=str(pointer),
        token_digest=None if token is None else digest_of(token),
        limits=limits,
        batch_images=max(options.batch_images, limits.images),
        batch_wait_s=options.batch_wait_s,
        threads=options.threads,
        local=is_own(options.address),
    )
    deployment = serve.deployment(
        Replica,
        name="model",
        num_replicas=options.replicas,
        max_ongoing_requests=_ROOM * limits.requests,
        max_queued_requests=_ROOM * limits.requests,
        graceful_shutdown_timeout_s=_DRAIN_S,
        graceful_shutdown_wait_loop_s=0.5,
        logging_config=quiet,
        ray_actor_options={
            "num_cpus": options.threads,
            "runtime_env": {"env_vars": {"PROMETHEUS_MULTIPROC_DIR": str(metrics)}},
        },
    )
    try:
        serve.start(
            proxy_location=ProxyLocation.HeadOnly,
            http_options=HTTPOptions(
                host=options.host,
                port=options.port,
                request_timeout_s=limits.timeout_s + 5,
            ),
            logging_config=quiet,
        )
        serve.run(deployment.bind(settings), name=APP, route_prefix="/")
    except (RuntimeError, ValueError, TimeoutError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"Ray Serve did not start: {first}") from None


def _serves_already() -> bool:
    from ray import get_actor
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return False
    return True


def _end(*, local: bool) -> None:
    """Let requests that have begun be answered, then end Serve, or its app on a Ray of our own."""
    from ray import serve

    if local:
        serve.delete(APP)
    else:
        serve.shutdown()
