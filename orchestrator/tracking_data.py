"""The data set of a sweep as an input of its MLflow runs: name, source and digest, no images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from pas_trainer import DataConfig

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

_MAX_DIGEST_CHARS = 36
_BUNDLED = "sklearn.datasets.load_digits"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataInput:
    """What a run says of the images it trained on.

    Attributes:
        name: of the data set.
        source: where the images lie, as MLflow writes it: JSON, without credentials.
        source_type: MLflow's name for what kind of place that is.
        digest: of the images, see :meth:`pas_trainer.data.sources.Sources.fingerprint`.
        images: how many there are, by split.
    """

    name: str
    source: str
    source_type: str
    digest: str
    images: dict[str, int]

    def entity(self) -> DatasetInput:
        """Return it as MLflow takes it."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=self.name,
            digest=self.digest[:_MAX_DIGEST_CHARS],
            source_type=self.source_type,
            source=self.source,
            profile=json.dumps({"num_rows": sum(self.images.values()), **self.images}),
        )
        return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def data_input(config: DataConfig, digest: str, images: dict[str, int]) -> DataInput:
    """Return what runs say of their data.

    Args:
        config: what is trained on.
        digest: of the images.
        images: how many there are, by split.
    """
    kind, source = _place(config)
    name = config.name if config.root is None else Path(urlsplit(config.root).path).name
    return DataInput(
        name=name or config.name,
        source=json.dumps(source),
        source_type=kind,
        digest=digest,
        images=images,
    )


def _place(config: DataConfig) -> tuple[str, dict[str, Any]]:
    """Return the type of a source and what MLflow finds it by; see ``mlflow.data.get_source``."""
    if config.root is None:
        source = _BUNDLED if config.name == "digits" else config.name
        return "code", {"tags": {"mlflow.source.name": source}}
    if "://" not in config.root:
        return "local", {"uri": Path(config.root).absolute().as_uri()}
    parts = urlsplit(config.root)
    host = parts.netloc.rpartition("@")[2]  # no user, no password; a query may be a signature
    return parts.scheme, {"uri": urlunsplit((parts.scheme, host, parts.path, "", ""))}
