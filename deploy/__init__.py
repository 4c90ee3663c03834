"""What leaves a trial: its package, its measured latency, its way into the model registry."""

from deploy.latency import measure_latency_ms
from deploy.package import (
    DeployedClassifier,
    PackageError,
    content_hash,
    load_architecture,
    load_package,
    save_package,
)
from deploy.parity import ParityError, check_parity
from deploy.registry import (
    CONTENT_HASH_TAG,
    PARITY_ERROR_TAG,
    LoadedModel,
    PromotedModel,
    load_promoted,
    promote_package,
)

__all__ = [
    "CONTENT_HASH_TAG",
    "PARITY_ERROR_TAG",
    "DeployedClassifier",
    "LoadedModel",
    "PackageError",
    "ParityError",
    "PromotedModel",
    "check_parity",
    "content_hash",
    "load_architecture",
    "load_package",
    "load_promoted",
    "measure_latency_ms",
    "promote_package",
    "save_package",
]
