"""Choosing what to promote, and handing it to the registry."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch

from deploy import PackageError, ParityError, PromotedModel, promote_package
from orchestrator.errors import UserError
from orchestrator.home import Home
from orchestrator.latency_table import latency_graph
from orchestrator.loading import parse_sweep
from orchestrator.preflight import sweep_graph
from orchestrator.records import TrialRecord
from orchestrator.sweep_files import files_of
from pas_trainer import DataError, load_data
from search_space import Limit, read_limit

PARITY_IMAGES = 64
"""Held-out images that training form, deploy form and exported form must agree on."""


class GateRefusedError(Exception):
    """A promotion gate said no (exit code 1)."""


def choose(
    records: Sequence[TrialRecord], resource: str, limit: Limit, supernet: float
) -> TrialRecord:
    """Return the most accurate member of the front whose cost is within the limit.

    Args:
        records: of one sweep, front marked; controls are left out.
        resource: what the sweep limits.
        limit: as in a sweep file: at most 1, a share of the supernet's cost; above 1, or with a
            unit (``0.8 ms``): absolute.
        supernet: the supernet's cost in the resource.

    Raises:
        UserError: the limit cannot be read, or no member of the front is that cheap.
    """
    try:
        number, is_absolute = read_limit("--budget is", limit, resource)
    except ValueError as error:
        raise UserError(str(error)) from None
    absolute = number if is_absolute else number * supernet
    members = [r for r in records if r.on_front and r.control is None]
    within = [r for r in members if _cost(r, resource) <= absolute]
    if not within:
        if not members:
            raise UserError("no trial of the sweep has finished; nothing can be promoted")
        cheapest = min(_cost(r, resource) for r in members)
        raise UserError(
            f"--budget {limit}: no front member is that cheap; the cheapest has "
            f"{cheapest:.12g} {resource} ({cheapest / supernet:.4f} of the supernet)"
        )
    return max(within, key=lambda r: (r.accuracy or 0.0, -_cost(r, resource)))


def _cost(record: TrialRecord, resource: str) -> float:
    cost = record.cost(resource)
    assert cost is not None  # on the front
    return cost


def promote(
    home: Home,
    records: Sequence[TrialRecord],
    *,
    limit: Limit,
    model_name: str,
    alias: str,
    tracking_uri: str,
) -> tuple[TrialRecord, PromotedModel]:
    """Promote the best trial within a budget; see :func:`choose`.

    Raises:
        UserError: nothing fits, or the trial's files or the data are not on this machine.
        GateRefusedError: training form and deploy form disagree.
    """
    sweep_id = records[0].sweep_id if records else ""
    path = home.sweep(sweep_id) / "sweep.json"
    if not path.exists():
        raise UserError(
            f"the files of sweep {sweep_id!r} are not in {home.root}; set PAS_HOME to its home"
        )
    recorded = json.loads(path.read_text())
    config = parse_sweep(recorded["config"], str(path))
    resource = config.budget.resource
    graph = sweep_graph(config, recorded["plan"].get("data_version", ""))
    if resource == "latency_ms":
        graph = latency_graph(graph, path.parent)
    record = choose(records, resource, limit, graph.count(resource))
    if record.run_id is None:
        raise UserError(f"trial {record.trial_id} has no MLflow run; run the sweep again")
    try:
        data = load_data(config.data)
        batch = next(data.validation.eval_batches(PARITY_IMAGES))[0]
        stored = files_of(home, sweep_id, config.storage.uri)
        with stored as files, files.package(record.trial_id) as folder:
            promoted = promote_package(
                tracking_uri,
                folder=folder,
                model_name=model_name,
                alias=alias,
                run_id=record.run_id,
                images=batch.contiguous().to(torch.float32) / 255,
                tags=_tags(record, resource),
                allow_import=True,  # the user's own sweep, which has run that code already
            )
    except (DataError, PackageError) as error:
        raise UserError(str(error)) from None
    except ParityError as error:
        raise GateRefusedError(str(error)) from None
    return record, promoted


def _tags(record: TrialRecord, resource: str) -> dict[str, str]:
    tags = {
        "pas.sweep_id": record.sweep_id,
        "pas.trial_id": record.trial_id,
        "pas.run_id": record.run_id,
        "pas.budget": f"{record.budget:g}",
        "pas.strength": f"{record.strength:g}",
        "pas.macs": record.macs,
        "pas.macs_ratio": record.macs_ratio,
        "pas.num_params": record.num_params,
        "pas.resource": resource,
        "pas.cost": record.cost(resource),
        "pas.latency_ms": record.latency_ms,
        "pas.accuracy": record.accuracy,
        "pas.test_accuracy": record.test_accuracy,
    }
    return {name: str(value) for name, value in tags.items()}
