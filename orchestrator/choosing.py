"""Choosing what to promote: the best of a sweep within a budget, or a trial by its name."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.errors import UserError
from orchestrator.records import TrialRecord
from search_space import Limit, absolute_limit, keeps_limit


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
    absolute = absolute_budget(limit, resource, supernet)
    members = [r for r in records if r.on_front and r.control is None]
    within = [r for r in members if keeps_limit(resource, _cost(r, resource), absolute)]
    if not within:
        if not members:
            raise UserError("no trial of the sweep has finished; nothing can be promoted")
        cheapest = min(_cost(r, resource) for r in members)
        raise UserError(
            f"--budget {limit}: no front member is that cheap; the cheapest has "
            f"{cheapest:.12g} {resource} ({cheapest / supernet:.4f} of the supernet)"
        )
    return max(within, key=lambda r: (r.gain or 0.0, -_cost(r, resource)))


def _cost(record: TrialRecord, resource: str) -> float:
    cost = record.cost(resource)
    assert cost is not None  # on the front
    return cost


def absolute_budget(limit: Limit, resource: str, supernet: float) -> float:
    """Return a limit in units of the resource; arguments as :func:`choose` has them.

    Raises:
        UserError: the limit cannot be read.
    """
    try:
        return absolute_limit(limit, resource, supernet, "--budget is")
    except ValueError as error:
        raise UserError(str(error)) from None


def named(records: Sequence[TrialRecord], trial_id: str) -> TrialRecord:
    """Return the trial of that id.

    Raises:
        UserError: there is none, it has not finished, or it is a control.
    """
    record = next((r for r in records if r.trial_id == trial_id), None)
    if record is None:
        raise UserError(f"--trial {trial_id}: the sweep has no such trial; see: pas status SWEEP")
    if record.control is not None:
        raise UserError(f"--trial {trial_id} is a control, which is never promoted")
    if record.status != "FINISHED":
        raise UserError(f"--trial {trial_id} is {record.status}; only FINISHED trials are promoted")
    return record
