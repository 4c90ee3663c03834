"""What leaves a trial: package, latency, registry; and the data that it needs on its node.

What needs MLflow or boto3 is imported when it is first used: every worker imports this package,
and they take seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from deploy.latency import median_pass_ms
from deploy.package import (
    ARCHITECTURE_FILE,
    TRAINING_WEIGHTS_FILE,
    WEIGHTS_FILE,
    PackageError,
    content_hash,
    deployed_network,
    load_architecture,
    load_package,
    save_package,
)
from deploy.parity import ParityError

if TYPE_CHECKING:
    from deploy.registered import CONTENT_HASH_TAG
    from deploy.staging import StagingProgress, stage

__all__ = [
    "ARCHITECTURE_FILE",
    "CONTENT_HASH_TAG",
    "TRAINING_WEIGHTS_FILE",
    "WEIGHTS_FILE",
    "PackageError",
    "ParityError",
    "StagingProgress",
    "content_hash",
    "deployed_network",
    "load_architecture",
    "load_package",
    "median_pass_ms",
    "save_package",
    "stage",
]

_LATER = {
    "CONTENT_HASH_TAG": "deploy.registered",
    "StagingProgress": "deploy.staging",
    "stage": "deploy.staging",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
