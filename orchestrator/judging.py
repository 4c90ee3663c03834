"""Holding a candidate to the gates: what its sweep, its files and the champion say of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from deploy import PackageError, deployed_network, load_architecture, load_package
from deploy.candidate import Candidate
from deploy.gates import (
    GateResult,
    budget_gate,
    latency_gate,
    parity_gate,
    robustness_gate,
    score_gate,
    stored_gate,
)
from deploy.measuring import Measurements, measure_score
from deploy.package import imported_names
from deploy.parity import eval_batch
from deploy.prediction import resize_of_architecture
from deploy.promotions import aliases_of
from deploy.registered import CONTENT_HASH_TAG, check_content, stored_package
from orchestrator.choosing import absolute_budget
from orchestrator.config import SweepConfig
from orchestrator.errors import UserError
from orchestrator.home import Home, read_sweep
from orchestrator.latency_table import latency_graph
from orchestrator.loading import parse_recorded
from orchestrator.model_cards import DATA_TAG
from orchestrator.preflight import sweep_graph
from orchestrator.records import TrialRecord
from orchestrator.tracking_server import describe
from pas_trainer import ACCURACY, Metric, Task, TaskData, make_task
from search_space import Architecture, ChannelGraph, Limit

CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is to be promoted, to what, and what is asked of it.

    Attributes:
        model_name: registered model.
        alias: what moves. The score's gate compares with the version it points to; a
            ``challenger`` is compared with the ``champion``, and need not reach it.
        limit: the best member of the front within it is promoted; see
            :func:`orchestrator.choosing.choose`.
        trial: promoted instead, if given.
        tolerance: how much worse than the champion it may be, in the unit of the metric.
        worst_score: score that it must reach.
        max_latency_ms: longest time of one image on one CPU thread of this machine.
        why: kept with the promotion.
        dry_run: ask the gates, change nothing.
    """

    model_name: str
    alias: str = CHAMPION
    limit: Limit | None = None
    trial: str | None = None
    tolerance: float = 0.0
    worst_score: float | None = None
    max_latency_ms: float | None = None
    why: str = ""
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepFacts:
    """What a sweep's files and data say of its trials; ``fingerprint`` is of the data."""

    config: SweepConfig
    graph: ChannelGraph
    task: Task
    data: TaskData
    fingerprint: str

    @property
    def metric(self) -> Metric:
        """What its trials are compared by."""
        return self.task.metric

    def batches(self) -> Iterator[Any]:
        """Yield its validation images, as many at a time as are measured at once."""
        return self.data.validation.eval_batches(eval_batch(self.task))

    @property
    def resource(self) -> str:
        """What the sweep limits."""
        return self.config.budget.resource

    @property
    def limits(self) -> dict[float, float]:
        """Absolute limit of each budget, in units of the resource."""
        return self.config.budget.absolute_limits(self.graph)


def open_sweep(home: Home, sweep_id: str) -> SweepFacts:
    """Return what a sweep's files and data say.

    Raises:
        UserError: they are not on this machine.
        DataError: an image cannot be read.
    """
    path = home.sweep(sweep_id) / "sweep.json"
    if not sweep_id or not path.exists():
        raise UserError(
            f"the files of sweep {sweep_id!r} are not in {home.root}; set PAS_HOME to its home"
        )
    recorded = read_sweep(path)
    config = parse_recorded(recorded["config"], str(path))
    graph = sweep_graph(config, recorded["plan"].get("data_version", ""))
    if config.budget.resource == "latency_ms":
        graph = latency_graph(graph, path.parent)
    task = make_task(config.task)
    return SweepFacts(
        config=config,
        graph=graph,
        task=task,
        data=task.load_data(config.data, torch.device("cpu")),
        fingerprint=task.open_data(config.data).fingerprint(),
    )


def check_scores(request: Request, metric: Metric) -> None:
    """Check what is asked of the score; accuracies are shares.

    Raises:
        UserError: it is out of range.
    """
    asked = {
        "--tolerance": request.tolerance,
        "--worst-score (--min-accuracy)": request.worst_score,
    }
    for option, value in asked.items():
        if value is None:
            continue
        if not math.isfinite(value):
            raise UserError(f"{option} is {value}; it must be a finite number")
        if metric == ACCURACY and not 0 <= value <= 1:
            raise UserError(f"{option} is {value:g}; accuracy is in 0..1")


def judge(
    client: MlflowClient,
    request: Request,
    sweep: SweepFacts,
    record: TrialRecord,
    candidate: Candidate,
    measured: Measurements,
) -> tuple[GateResult, ...]:
    """Ask all gates what they say of a candidate.

    Args:
        client: of the registry.
        request: what is asked for.
        sweep: where the candidate comes from.
        record: of its trial.
        candidate: as its files have it.
        measured: of the candidate.

    Raises:
        UserError: the champion's files cannot be used.
    """
    resource, limit = sweep.resource, request.limit
    champion, against = _champion(client, request, sweep, candidate)
    return (
        stored_gate(
            metric=sweep.metric.name,
            recorded=record.score or 0.0,
            deploy=measured.score,
            exported=measured.exported_score,
            num_images=measured.num_images,
            changed=_changed(record, candidate),
        ),
        score_gate(
            metric=sweep.metric,
            score=measured.score,
            champion=champion,
            against=against,
            tolerance=request.tolerance,
            worst=request.worst_score,
            refuses=request.alias != CHALLENGER,
        ),
        budget_gate(
            resource=resource,
            cost=sweep.graph.count(resource, candidate.architecture.widths),
            limit=None
            if limit is None
            else absolute_budget(limit, resource, sweep.graph.count(resource)),
        ),
        latency_gate(latency_ms=measured.latency_ms, limit_ms=request.max_latency_ms),
        parity_gate(
            answers=sweep.task.answers,
            training_error=measured.training_error,
            exported_error=measured.exported_error,
        ),
        robustness_gate(
            answers=sweep.task.answers,
            one_image=sweep.task.form == "onnx",
            error=measured.size_error,
            faults=measured.faults,
            takes_infinity=measured.takes_infinity,
        ),
    )


def _changed(record: TrialRecord, candidate: Candidate) -> str:
    """Return what tells that the files are not the trial's; records of old have no hash."""
    if record.widths is not None and dict(record.widths) != candidate.architecture.widths:
        return "the stored architecture has other widths than the trial's"
    if record.content_hash not in {None, candidate.content_hash}:
        return "the files are not those that the trial has left: their content hash is another"
    return ""


def _champion(
    client: MlflowClient, request: Request, sweep: SweepFacts, candidate: Candidate
) -> tuple[float | None, str]:
    """Return the score of the version to compare with, and what that is or why there is none."""
    alias = CHAMPION if request.alias == CHALLENGER else request.alias
    version = aliases_of(client, request.model_name).get(alias)
    if version is None:
        return None, f"there is no {alias} to compare with"
    what = f"the {alias} (version {version})"
    tags = client.get_model_version(request.model_name, str(version)).tags
    try:
        with stored_package(client, request.model_name, version) as folder:
            theirs = load_architecture(folder)
            difference = _difference(theirs, candidate.architecture)
            if tags.get(DATA_TAG, sweep.fingerprint) != sweep.fingerprint:
                difference = difference or "was trained on other data"
            if difference:
                return None, f"not compared with {what}, which {difference}"
            if (promised := tags.get(CONTENT_HASH_TAG)) is not None:
                check_content(folder, promised, request.model_name, version)
            # code that the candidate, of the user's own sweep, names has been run already
            known = imported_names(theirs).items() <= imported_names(candidate.architecture).items()
            network = deployed_network(*load_package(folder, allow_import=known))
    except (PackageError, MlflowException, OSError) as error:
        raise UserError(
            f"{what} of model {request.model_name!r} cannot be compared with: {describe(error)}; "
            "go back to a version that can (pas rollback), or promote to another alias"
        ) from None
    return measure_score(network, sweep.task, sweep.data, sweep.batches()), what


def _difference(theirs: Architecture, own: Architecture) -> str:
    """Return why networks cannot be compared; empty if they can."""
    if theirs.task != own.task:
        return f"is for {theirs.task}"
    if list(theirs.classes) != list(own.classes):
        return "has other classes"
    if (theirs.in_channels, theirs.image_size) != (own.in_channels, own.image_size):
        return "takes images of another shape"
    if own.task == "classification" and (
        resize_of_architecture(theirs) != resize_of_architecture(own)
    ):
        return "was trained on images prepared otherwise"
    return ""
