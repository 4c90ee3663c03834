"""Pareto fronts and hypervolumes: pure maths on arrays (lower is better), then the same on records.

Signs are normalised once, in :func:`_points`; everything above it minimises every column.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from orchestrator.records import TrialRecord


def pareto_mask(points: ArrayLike) -> NDArray[np.bool_]:
    """Tell which points no other point dominates.

    A point is dominated when another one is no worse in both columns and better in one. Equal
    points do not dominate each other: all copies are kept. Infinities are ordinary values.

    Args:
        points: (n, 2), lower is better. A row with a NaN is never on the front.

    Returns:
        (n,) booleans, in O(n log n).

    Raises:
        ValueError: ``points`` is not of shape (n, 2).
    """
    values = _as_rows(points)
    mask = np.zeros(len(values), dtype=np.bool_)
    valid = np.flatnonzero(~np.isnan(values).any(axis=1))
    if valid.size:
        mask[valid] = _mask_valid(values[valid])
    return mask


def hypervolume_2d(points: ArrayLike, reference: ArrayLike) -> float:
    """Return the area dominated by ``points`` and bounded by ``reference``.

    The hypervolume indicator of Zitzler and Thiele (1998) for two objectives, as a sweep over the
    front sorted by its first column.

    Args:
        points: (n, 2), lower is better. Rows with a NaN, and rows not strictly better than the
            reference in both columns, add nothing.
        reference: (2,), finite.

    Returns:
        A non-negative area; 0.0 without points; infinite if a point is at minus infinity.

    Raises:
        ValueError: a wrong shape, or a reference that is not finite.
    """
    values = _as_rows(points)
    corner = np.asarray(reference, dtype=np.float64)
    if corner.shape != (2,) or not np.isfinite(corner).all():
        raise ValueError(f"the reference must be two finite numbers, not {corner.tolist()}")
    inside = values[(values < corner).all(axis=1)]
    rows = np.unique(inside[pareto_mask(inside)], axis=0)
    if not len(rows):
        return 0.0
    right = np.append(rows[1:, 0], corner[0])
    return float(np.sum((right - rows[:, 0]) * (corner[1] - rows[:, 1])))


def front(records: Iterable[TrialRecord], resource: str = "macs") -> list[TrialRecord]:
    """Return the finished trials that no other finished trial beats, cheapest first.

    Args:
        records: trials of one sweep; those not FINISHED, or without cost or score, are left
            out, and so are controls.
        resource: what to minimise, see :meth:`TrialRecord.cost`.
    """
    members = [record for record in mark_front(records, resource) if record.on_front]
    return sorted(members, key=lambda r: (r.cost(resource), -(r.gain or 0.0), r.trial_id))


def mark_front(records: Iterable[TrialRecord], resource: str = "macs") -> list[TrialRecord]:
    """Return the records in their order, each with ``on_front`` set for ``resource``."""
    rows = list(records)
    mask = pareto_mask(_points(rows, resource))
    return [
        record
        if record.on_front == bool(member)
        else dataclasses.replace(record, on_front=bool(member))
        for record, member in zip(rows, mask, strict=True)
    ]


def hypervolume(records: Iterable[TrialRecord], resource: str, reference_cost: float) -> float:
    """Return the area under the front: a sweep's quality in one number, of accuracies in [0, 1].

    Costs are divided by ``reference_cost`` (the supernet's); the reference point is cost ratio 1,
    score 0, so that there is no area where less is better. A trial dearer than the supernet adds
    nothing.

    Raises:
        ValueError: ``reference_cost`` is not a positive finite number.
    """
    if not (math.isfinite(reference_cost) and reference_cost > 0):
        raise ValueError(f"reference_cost must be positive, not {reference_cost}")
    points = _points(list(records), resource)
    return hypervolume_2d(points / np.array([reference_cost, 1.0]), (1.0, 0.0))


def _points(records: Sequence[TrialRecord], resource: str) -> NDArray[np.float64]:
    """Return (n, 2): cost and minus the gain; NaN for a control or a trial without result."""
    points = np.full((len(records), 2), np.nan)
    for row, record in enumerate(records):
        cost = record.cost(resource)
        counts = record.status == "FINISHED" and record.control is None
        if counts and cost is not None and record.gain is not None:
            points[row] = float(cost), -float(record.gain)
    return points


def _mask_valid(rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    """On the front: the best y of its own x, and better than the best y of any smaller x."""
    levels, level_of = np.unique(rows[:, 0], return_inverse=True)
    best_here = np.full(len(levels), np.inf)
    np.minimum.at(best_here, level_of, rows[:, 1])
    best_before = np.minimum.accumulate(best_here)
    advances = np.ones(len(levels), dtype=np.bool_)
    advances[1:] = best_here[1:] < best_before[:-1]
    mask: NDArray[np.bool_] = advances[level_of] & (rows[:, 1] == best_here[level_of])
    return mask


def _as_rows(points: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(points, dtype=np.float64)
    if values.size and values.shape[1:] != (2,):
        raise ValueError(f"points must be of shape (n, 2), not {values.shape}")
    return values.reshape(-1, 2)
