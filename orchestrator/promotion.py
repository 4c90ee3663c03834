"""Choosing what to promote, holding it to the gates, and handing it to the registry."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from deploy import ARCHITECTURE_FILE
from deploy.candidate import Candidate, open_candidate
from deploy.gates import GateResult, unreadable
from deploy.measuring import Measurements, measure_candidate, sample_of
from deploy.onnx_export import OnnxMissingError
from deploy.promotions import (
    AliasMovedError,
    PromotionError,
    aliases_of,
    check_request,
    move_alias,
)
from deploy.registry import register_candidate
from orchestrator.choosing import choose, named
from orchestrator.errors import UserError
from orchestrator.home import Home
from orchestrator.judging import (
    CHAMPION,
    Request,
    SweepFacts,
    check_scores,
    judge,
    open_sweep,
)
from orchestrator.model_cards import description, gate_tags, version_tags
from orchestrator.records import TrialRecord
from orchestrator.sweep_files import WEIGHTS, files_of
from orchestrator.tracking_server import TrackingError, describe, open_client
from pas_trainer import DataError, TaskError


class GateRefusedError(Exception):
    """A gate said no (exit code 1)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromotedModel:
    """A version in the registry that an alias points to.

    Attributes:
        name: registered model.
        version: counts from 1 within the name.
        alias: what was moved to the version.
        in_force: it still points there: nobody else has moved it at the same time.
        parity_error: largest difference of the answers of training form and deploy form, relative,
            see :meth:`pas_trainer.Task.error`.
    """

    name: str
    version: int
    alias: str
    in_force: bool
    parity_error: float

    @property
    def model_uri(self) -> str:
        """``models:/NAME/VERSION``, stays with this version when the alias moves on."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a promotion.

    Attributes:
        record: the trial's.
        gates: what they said, all of them unless the files cannot be read.
        promoted: the version; ``None`` if a gate refused, or of a dry run.
    """

    record: TrialRecord
    gates: tuple[GateResult, ...]
    promoted: PromotedModel | None = None

    @property
    def refused(self) -> list[str]:
        """Names of the gates that refused."""
        return [gate.name for gate in self.gates if not gate.passed]


def promote(
    home: Home,
    records: Sequence[TrialRecord],
    request: Request,
    *,
    tracking_uri: str,
    tell: Callable[[str], object] = lambda _: None,
) -> Outcome:
    """Promote a trial if all gates let it through.

    Args:
        home: where the sweep ran.
        records: of the sweep, front marked.
        request: what is asked for.
        tracking_uri: the store, which is also the registry.
        tell: for progress.

    Raises:
        UserError: nothing fits, the trial's files or the data are not on this machine, or the
            registry does not answer.
    """
    with one_sentence(tracking_uri), contextlib.ExitStack() as stack:
        check_request(request.model_name, request.alias, request.why)
        if request.limit is None and request.trial is None:
            raise UserError("name what to promote: --budget LIMIT, or --trial TRIAL_ID")
        if not records:
            raise UserError("no trial of the sweep has ended yet; run 'pas sweep' on, then promote")
        tell("data")
        sweep = open_sweep(home, records[0].sweep_id)
        check_scores(request, sweep.metric)
        record = _pick(records, request, sweep)
        files = files_of(home, record.sweep_id, sweep.config.storage.uri)
        folder = stack.enter_context(stack.enter_context(files).package(record.trial_id))
        _check_kept(folder, record)
        tell(f"{record.trial_id}: exporting")
        try:
            images = sample_of(sweep.task, sweep.data)
        except ValueError as error:
            raise UserError(f"task {sweep.config.task.name}: {error}") from None
        try:
            # the user's own sweep, which has run any code that it names already
            opened = open_candidate(folder, images, allow_import=True)
            candidate = stack.enter_context(opened)
        except ValueError as error:  # no package, or that of a network for other images
            return Outcome(record=record, gates=(unreadable(str(error)),))
        tell(f"{record.trial_id}: measuring")
        measured = measure_candidate(candidate, sweep.data, sweep.batches(), images)
        client = open_client(tracking_uri)
        while True:
            tell(f"comparing with the {CHAMPION}")
            with contextlib.suppress(AliasMovedError):  # then look again
                return _to_registry(client, request, sweep, record, candidate, measured)


@contextlib.contextmanager
def one_sentence(tracking_uri: str) -> Iterator[None]:
    """Turn what goes wrong with data, tasks, stores and the registry into one sentence."""
    try:
        yield
    except (DataError, OnnxMissingError, PromotionError, TaskError) as error:
        raise UserError(str(error)) from None
    except OSError as error:
        if error.filename is None:  # of a connection
            raise TrackingError(f"the registry: {describe(error, tracking_uri)}") from None
        raise UserError(
            f"{error.filename}: {error.strerror}; make room or mend it, and promote again"
        ) from None
    except MlflowException as error:
        raise TrackingError(f"the registry: {describe(error, tracking_uri)}") from None
    except Exception as error:
        if "sqlalchemy" not in type(error).__module__:
            raise
        raise TrackingError(f"the registry: {describe(error, tracking_uri)}") from None


def _pick(records: Sequence[TrialRecord], request: Request, sweep: SweepFacts) -> TrialRecord:
    if request.trial is not None:
        record = named(records, request.trial)
    else:
        assert request.limit is not None
        supernet = sweep.graph.count(sweep.resource)
        record = choose(records, sweep.resource, request.limit, supernet)
    if record.run_id is None:
        raise UserError(f"trial {record.trial_id} has no MLflow run; run the sweep again")
    return record


def _check_kept(folder: Path, record: TrialRecord) -> None:
    for name in (ARCHITECTURE_FILE, *WEIGHTS):
        if not (folder / name).exists():
            raise UserError(
                f"{name} of trial {record.trial_id} is not kept; of trials that are not on the "
                "front only storage.keep: all keeps the weights"
            )


def _to_registry(
    client: MlflowClient,
    request: Request,
    sweep: SweepFacts,
    record: TrialRecord,
    candidate: Candidate,
    measured: Measurements,
) -> Outcome:
    """Ask the gates, register the candidate and move the alias.

    Raises:
        AliasMovedError: somebody moved the alias meanwhile.
    """
    seen = aliases_of(client, request.model_name).get(request.alias)
    gates = judge(client, request, sweep, record, candidate, measured)
    outcome = Outcome(record=record, gates=gates)
    if outcome.refused or request.dry_run:
        return outcome
    tags = version_tags(record, sweep.resource, sweep.fingerprint) | gate_tags(gates, measured)
    limit = sweep.limits.get(record.budget)
    data = sweep.config.data.name
    text = description(record, sweep.resource, data, gates, measured, limit)
    run_id = str(record.run_id)
    version = register_candidate(
        client, candidate, request.model_name, run_id=run_id, tags=tags, description=text
    )
    _, in_force = move_alias(
        client,
        request.model_name,
        alias=request.alias,
        kind="promotion",
        to_version=version,
        seen=seen,
        why=request.why,
        sweep_id=record.sweep_id,
        trial_id=record.trial_id,
        run_id=run_id,
        content_hash=candidate.content_hash,
        metric=sweep.metric.name,
        score=measured.score,
        gates={gate.name: _short(gate) for gate in gates},
    )
    promoted = PromotedModel(
        name=request.model_name,
        version=version,
        alias=request.alias,
        in_force=in_force,
        parity_error=measured.training_error,
    )
    return Outcome(record=record, gates=gates, promoted=promoted)


def _short(gate: GateResult) -> list[bool | float | None]:
    plain = gate.to_json()
    return [plain["passed"], plain["measured"], plain["required"]]
