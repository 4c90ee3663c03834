"""The networks of trials as logged models of MLflow: figures at once, files when one is promoted.

A logged model belongs to the run of its trial, and there is one per network, however often it is
asked for. Until the network is promoted its files stay where the sweep keeps them; MLflow calls
such a model external, and refuses to load it with that reason. Everything is read from the run: its
parameters become the model's, its results the model's metrics, tied to the run's data set.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric, Run
from mlflow.models import Model

from deploy.mlflow_model import write_metadata
from deploy.paging import paged
from deploy.registered import CONTENT_HASH_TAG

EXTERNAL_TAG = "mlflow.model.isExternal"
"""MLflow's tag of a model whose files it does not have."""

FIGURES = (
    "macs",
    "macs_ratio",
    "num_params",
    "activation_bytes",
    "latency_ms",
    "predicted_latency_ms",
)
"""Metrics of a run that say what its network costs."""

_TRIAL_TAGS = ("pas.sweep_id", "pas.trial_id")
_VERSIONS_TAG = "mlflow.modelVersions"
_UNNAMED = "deployed_network"


def log_network(
    client: MlflowClient, run: Run, content_hash: str | None, tags: Mapping[str, str]
) -> LoggedModel:
    """Return the logged model of a run's network, made or completed if need be.

    Doing it again changes nothing, whatever broke off before.

    Args:
        client: of the tracking store.
        run: of the trial, ended.
        content_hash: of the network's package; ``None``: not known, of an old trial.
        tags: of the model, beside those that it is found by.

    Raises:
        MlflowException: the store failed.
    """
    model = _find(client, run, content_hash)
    if model is None:
        own = {name: run.data.tags[name] for name in _TRIAL_TAGS if name in run.data.tags}
        own |= {CONTENT_HASH_TAG: content_hash} if content_hash else {}
        model = client.create_logged_model(
            experiment_id=run.info.experiment_id,
            name=_name(run),
            source_run_id=run.info.run_id,
            tags={**own, **tags, EXTERNAL_TAG: "true"},
            params=dict(run.data.params),
        )
    if model.status != LoggedModelStatus.READY:
        _attach(client, run, model)
        _say_external(client, model)
        model = client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return model


def upload_files(client: MlflowClient, model: LoggedModel, metadata: Model, folder: Path) -> None:
    """Give a logged model its files, so that MLflow can load it; over those that it has.

    Args:
        client: of the tracking store.
        model: of the same network.
        metadata: of the model in ``folder``, told where it belongs.
        folder: in MLflow's layout.

    Raises:
        MlflowException: the store failed; a model that had no files stays external.
    """
    metadata.run_id = model.source_run_id
    metadata.model_id = metadata.model_uuid = model.model_id
    metadata.artifact_path = model.artifact_location
    write_metadata(folder, metadata)
    client.log_model_artifacts(model.model_id, str(folder))
    if EXTERNAL_TAG in model.tags:
        client.delete_logged_model_tag(model.model_id, EXTERNAL_TAG)


def name_version(client: MlflowClient, model: LoggedModel, name: str, version: str) -> None:
    """Let a logged model say which version of the registry it is, as a tracking server does."""
    tags = client.get_logged_model(model.model_id).tags
    versions = json.loads(tags.get(_VERSIONS_TAG, "[]"))
    if (name, version) not in {(known["name"], str(known["version"])) for known in versions}:
        versions.append({"name": name, "version": version})
        client.set_logged_model_tags(model.model_id, {_VERSIONS_TAG: json.dumps(versions)})


def logged_networks(
    client: MlflowClient, experiment_id: str, filter_string: str
) -> list[LoggedModel]:
    """Return the logged models that fit a filter, the earliest first."""
    return paged(
        client.search_logged_models,
        experiment_ids=[experiment_id],
        filter_string=filter_string,
        order_by=[{"field_name": "creation_timestamp", "ascending": True}],
    )


def _find(client: MlflowClient, run: Run, content_hash: str | None) -> LoggedModel | None:
    """Return the first logged model of a run with this content that has not failed."""
    of_run = f"source_run_id = '{run.info.run_id}'"
    for model in logged_networks(client, run.info.experiment_id, of_run):
        is_same = content_hash is None or model.tags.get(CONTENT_HASH_TAG) == content_hash
        if is_same and model.status != LoggedModelStatus.FAILED:
            return model
    return None


def _is_figure(key: str, metrics: Mapping[str, float]) -> bool:
    """Whether a metric says something of the network: its costs, and scores on both splits."""
    return key in FIGURES or key.startswith("test_") or f"test_{key}" in metrics


def _attach(client: MlflowClient, run: Run, model: LoggedModel) -> None:
    """Tie the run's results to the model: the same metrics at the same steps and times."""
    datasets = [used.dataset for used in run.inputs.dataset_inputs] if run.inputs else []
    about = (
        {"dataset_name": datasets[0].name, "dataset_digest": datasets[0].digest} if datasets else {}
    )
    metrics = [
        Metric(
            m.key, m.value, m.timestamp, m.step,
            model_id=model.model_id, run_id=run.info.run_id, **about,
        )
        for m in _last_values(run)
        if _is_figure(m.key, run.data.metrics)
    ]  # fmt: skip
    if metrics:
        client.log_batch(run.info.run_id, metrics=metrics)
    outputs = run.outputs.model_outputs if run.outputs else []
    if model.model_id not in {output.model_id for output in outputs}:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])


def _last_values(run: Run) -> Iterable[Metric]:
    return (Metric.from_proto(metric) for metric in run.data.to_proto().metrics)


def _say_external(client: MlflowClient, model: LoggedModel) -> None:
    """Write what MLflow looks at when somebody loads the model, so that it says why it cannot."""
    with tempfile.TemporaryDirectory() as folder:
        about = Model(
            artifact_path=model.artifact_location,
            model_uuid=model.model_id,
            model_id=model.model_id,
            run_id=model.source_run_id,
            metadata={EXTERNAL_TAG: True},
        )
        write_metadata(folder, about)
        client.log_model_artifacts(model.model_id, folder)


def _name(run: Run) -> str:
    """Name a model by its trial; MLflow takes no dots in it."""
    return str(run.data.tags.get("pas.trial_id", _UNNAMED)).replace(".", "_")
