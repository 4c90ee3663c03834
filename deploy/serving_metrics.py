"""What a server tells Prometheus.

Replicas are processes of their own. If ``PROMETHEUS_MULTIPROC_DIR`` names a folder, all of them
count into files in it, and each of them tells the sums of all.
"""

from __future__ import annotations

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Read by prometheus_client when it is imported."""
CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one server; make one per process."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "pas_serve_requests", "Requests answered.", ("path", "status"), registry=registry
        )
        self._seconds = Histogram(
            "pas_serve_request_seconds",
            "From the first byte of a request for predictions to its answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "pas_serve_batch_images",
            "Images that were classified together.",
            buckets=_IMAGES,
            registry=registry,
        )
        self._version = Gauge(
            "pas_serve_model_version",
            "Version that is served.",
            ("model",),
            multiprocess_mode="mostrecent",
            registry=registry,
        )

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count an answer; ``path`` is one of the server's, lest there be countless counters."""
        self._requests.labels(path, str(status)).inc()
        if path == "/predict":
            self._seconds.observe(seconds)

    def classified(self, batch_images: int) -> None:
        """Count a batch."""
        self._batches.observe(batch_images)

    def serves(self, model: str, version: int) -> None:
        """Tell which version is served from now on."""
        self._version.labels(model).set(version)

    def text(self) -> bytes:
        """Return all of them as Prometheus reads them."""
        if FOLDER_VARIABLE not in os.environ:
            return generate_latest(self._registry)
        every = CollectorRegistry()
        MultiProcessCollector(every)  # type: ignore[no-untyped-call]
        return generate_latest(every)
