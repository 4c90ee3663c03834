"""What leaves a trial: package, latency, registry; and the data that it needs on its node."""

from deploy.latency import measure_latency_ms
from deploy.package import (
    ARCHITECTURE_FILE,
    TRAINING_WEIGHTS_FILE,
    WEIGHTS_FILE,
    DeployedClassifier,
    PackageError,
    content_hash,
    load_architecture,
    load_package,
    save_package,
)
from deploy.parity import ParityError, check_parity
from deploy.registry import PARITY_ERROR_TAG, PromotedModel, promote_package
from deploy.staging import StagingProgress, stage
from deploy.stored_versions import CONTENT_HASH_TAG, LoadedModel, load_promoted

__all__ = [
    "ARCHITECTURE_FILE",
    "CONTENT_HASH_TAG",
    "PARITY_ERROR_TAG",
    "TRAINING_WEIGHTS_FILE",
    "WEIGHTS_FILE",
    "DeployedClassifier",
    "LoadedModel",
    "PackageError",
    "ParityError",
    "PromotedModel",
    "StagingProgress",
    "check_parity",
    "content_hash",
    "load_architecture",
    "load_package",
    "load_promoted",
    "measure_latency_ms",
    "promote_package",
    "save_package",
    "stage",
]
