"""Sweeps grow: limits, strengths and trials are added to one, whatever else it has stays.

What decides the result of a trial makes the sweep's id. A file whose other settings have changed
is another sweep, which is told before it starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.config import SweepConfig
from orchestrator.errors import UserError
from orchestrator.home import Home, read_sweep
from orchestrator.loading import parse_recorded, parse_sweep
from search_space import read_limit


def recorded_config(home: Home, sweep: str) -> SweepConfig | None:
    """Return the settings of a sweep (id, or name: then its latest) started from this home.

    Raises:
        UserError: what is kept of them is damaged.
    """
    path = home.record_of(sweep)
    return None if path is None else _config_in(path)


def with_recorded_cells(config: SweepConfig, home: Home) -> SweepConfig:
    """Add the limits, strengths and trials that the sweep has already to those of ``config``."""
    before = recorded_config(home, config.sweep_id)
    if before is None:
        return config
    return grown(before, config.budget.limits, config.strengths, like=config)


def grown(
    before: SweepConfig,
    limits: Sequence[float | str],
    strengths: Sequence[float],
    *,
    like: SweepConfig,
) -> SweepConfig:
    """Return ``like`` with the cells of ``before``, and then the new ones, and as many trials.

    Raises:
        UserError: a limit or a strength is out of range.
    """
    document = like.model_dump(mode="json")
    known = dict(_read(before, limit) for limit in before.budget.limits)
    added = [limit for limit in limits if _is_new(before, limit, known)]
    document["budget"]["limits"] = [*before.budget.limits, *added]
    new = [strength for strength in strengths if strength not in before.strengths]
    document["strengths"] = [*before.strengths, *new]
    document["trials_per_cell"] = max(before.trials_per_cell, like.trials_per_cell)
    return parse_sweep(document, f"sweep {before.sweep_id}")


def extended(
    home: Home,
    sweep: str,
    *,
    trials: int | None,
    limits: Sequence[float | str],
    strengths: Sequence[float],
) -> SweepConfig:
    """Return a sweep's settings with more trials per cell, limits or strengths.

    Raises:
        UserError: no such sweep here, or a value is out of range.
    """
    before = recorded_config(home, sweep)
    if before is None:
        raise UserError(
            f"no sweep {sweep!r} was started from home folder {home.root}; see: pas status"
        )
    if trials is not None and trials < before.trials_per_cell:
        raise UserError(
            f"--trials is {trials}, but each cell of {before.sweep_id} is due "
            f"{before.trials_per_cell} already; give the new number in all"
        )
    config = grown(before, limits, strengths, like=before)
    if trials is not None:
        document = config.model_dump(mode="json") | {"trials_per_cell": trials}
        config = parse_sweep(document, f"sweep {before.sweep_id}")
    if config.sweep_id != before.sweep_id:
        raise UserError(
            f"sweep {before.sweep_id} has budget.schedule annealed, whose limits decide its "
            "trials; only strengths and trials can be added"
        )
    return config


def check_unchanged(config: SweepConfig, home: Home) -> None:
    """Check that no sweep of this name was started here with other settings.

    Raises:
        UserError: showing what differs.
    """
    before = recorded_config(home, config.name)
    if before is None or home.record_of(config.sweep_id) is not None:
        return
    changed = differences(before, config)
    if not changed:  # an id of an earlier version
        return
    raise UserError(
        f"sweep {before.sweep_id} of this name has other settings: {'; '.join(changed)}. Set them "
        "back to go on with it, or give the new sweep another name, or add --new to run it beside "
        "the old one"
    )


def check_same_supernet(config: SweepConfig, key: str, home: Home) -> None:
    """Check that a sweep that has trials goes on in the supernet that they started from.

    Its settings are the same; images, given weights and the network's own code need not be.

    Args:
        config: the sweep.
        key: see :attr:`orchestrator.preflight.Plan.supernet_key`.
        home: where it was started.

    Raises:
        UserError: it is another one.
    """
    path = home.record_of(config.sweep_id)
    before = None if path is None else read_sweep(path).get("supernet_key")
    if before not in {None, key}:
        raise UserError(
            f"sweep {config.sweep_id} has trials of supernet {before}, but what data.root, "
            f"supernet.name and supernet.weights name has changed since, which gives {key}, and "
            "their results cannot be compared; set it back, or give the new sweep another name"
        )


def differences(before: SweepConfig, now: SweepConfig) -> list[str]:
    """Return the settings that decide results and differ, as ``key: old -> new``."""
    old, new = (dict(_flat(config.deciding())) for config in (before, now))
    return [
        f"{key}: {_shown(old, key)} -> {_shown(new, key)}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


def _is_new(before: SweepConfig, limit: float | str, known: Mapping[float, bool]) -> bool:
    """Whether no cell has this limit; cells are named by its number."""
    try:
        number, is_absolute = _read(before, limit)
    except ValueError:
        return True  # refused with all the others
    if known.get(number, is_absolute) != is_absolute:
        kinds = ("a share", "absolute")
        raise UserError(
            f"limit {limit!r} is {kinds[is_absolute]}, but sweep {before.sweep_id} has "
            f"{number:g} as {kinds[not is_absolute]} one; "
            "choose another number"
        )
    return number not in known


def _read(config: SweepConfig, limit: float | str) -> tuple[float, bool]:
    return read_limit("limits has", limit, config.budget.resource)


def _config_in(path: Path) -> SweepConfig:
    return parse_recorded(read_sweep(path)["config"], str(path))


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(document: Mapping[str, Any], key: str) -> str:
    return json.dumps(document[key]) if key in document else "not set"
