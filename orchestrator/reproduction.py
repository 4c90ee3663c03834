"""The commands that give the numbers of a report again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from orchestrator.cells import from_loose_to_tight
from orchestrator.config import SweepConfig
from orchestrator.records import TrialRecord


def sweep_command(config: SweepConfig) -> str:
    """Return the command that runs the whole sweep, in an empty home folder from its beginning.

    A sweep that keeps its files on an object store would find itself there, and train nothing.
    """
    words = ["pas", "sweep", f"{config.name}.yaml"]
    if config.storage.uri is not None:
        words += ["--set", "storage.uri=null"]
    return shlex.join(words)


def search_command(
    config: SweepConfig, record: TrialRecord, absolute: Mapping[float, float]
) -> str | None:
    """Return the command that runs one trial of the sweep again.

    Args:
        config: the sweep.
        record: the trial.
        absolute: limits by budget, see :func:`orchestrator.cells.from_loose_to_tight`.

    Returns:
        ``None`` if there is none: a control, or a network of an annealed front behind the first.
    """
    budget = config.budget
    limits = dict(zip(budget.numbers, budget.limits, strict=True))
    if record.control is not None or record.budget not in limits:
        return None
    loosest = from_loose_to_tight(config, absolute)[0]
    if budget.schedule == "annealed" and record.budget != loosest:
        return None
    words = ["pas", "search", f"{config.name}.yaml", "--budget", str(limits[record.budget])]
    words += ["--strength", repr(record.strength).removesuffix(".0")]
    words += ["--number", str(record.number)]
    for name, value in record.hyperparameters.items():
        words += ["--hyperparameter", f"{name}={value!r}"]
    if budget.limits_latency:
        words += ["--set", "latency.table=latency.json"]
    return shlex.join(words)


def caveats(config: SweepConfig, members: Sequence[TrialRecord]) -> list[str]:
    """Return sentences on how exactly the commands give the same numbers."""
    told = [
        "pas search gives a trial its seed (by --number) and hyper-parameters. On the same kind of "
        "CPU, with as many threads (resources.cpus_per_trial, no more than there are cores) and "
        "the same versions of the libraries, the result is the same bit for bit; elsewhere, and on "
        "a GPU, up to rounding, which training magnifies.",
        "pas sweep in an empty PAS_HOME trains the supernet and all trials and controls anew, with "
        f"the same seeds{_away_from(config.storage.uri)}.",
    ]
    if config.hyperparameters:
        told.append(
            "Optuna draws the first ten trials of a cell by seed alone, later ones by what had "
            "ended by then: with several trials at a time these may differ from run to run."
        )
    if config.budget.limits_latency:
        told.append(
            "Limits on latency go by a measured table: latency.json is the one in the sweep's "
            "folder below PAS_HOME; put it beside the sweep file."
        )
    if config.budget.schedule == "annealed":
        told.append(
            "Tighter networks of an annealed front are searched in the looser ones, and only the "
            "sweep gives them again."
        )
    if config.resources.workers_per_trial > 1:
        told.append(
            f"Trials were trained by {config.resources.workers_per_trial} workers each; pas search "
            "trains in one process, which comes close."
        )
    if any(member.micro_batches != config.optimizer.micro_batches for member in members):
        told.append(
            "Trials that ran out of memory were trained in smaller parts; they come out the same "
            "only where memory runs out again."
        )
    return told


def _away_from(uri: str | None) -> str:
    if uri is None:
        return ""
    return f"; without --set storage.uri=null it would take them all from {uri}"
