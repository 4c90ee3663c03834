"""Optuna: one persistent study per cell, the same on resume."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from orchestrator.cells import Cell
from orchestrator.study_storage import open_storage, storage_errors
from pas_trainer import derive_seed
from search_space import FloatRange

STATES = {
    "FINISHED": TrialState.COMPLETE,
    "PRUNED": TrialState.PRUNED,
    "FAILED": TrialState.FAIL,
}
"""Our status of an ended trial, in Optuna's words."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A trial to run: its cell, its index there, and its hyper-parameters."""

    cell: Cell
    number: int
    hyperparameters: Mapping[str, float]


class CellStudies:
    """Hands out trials fairly over the cells and keeps their outcomes.

    Args:
        url: SQLAlchemy URL of the storage.
        sweep_id: prefix of the study names.
        cells: in the order in which they take turns.
        ranges: hyper-parameters to steer.
        defaults: what the sweep file itself says; each cell's first trial, where within range.
        trials_per_cell: how many trials each cell gets in all.
        max_failures: after so many failures in a row, a cell gets no more trials.
        seed: suggestions depend on it, the cell, the trial's index and what is known by then.

    Raises:
        orchestrator.study_storage.StudyStorageError: from every method that needs the storage, if
            that fails.
    """

    def __init__(
        self,
        url: str,
        sweep_id: str,
        cells: list[Cell],
        *,
        ranges: Mapping[str, FloatRange],
        defaults: Mapping[str, float],
        trials_per_cell: int,
        max_failures: int,
        seed: int,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self._distributions = {name: to_distribution(r) for name, r in ranges.items()}
        self._defaults = {n: defaults[n] for n, r in ranges.items() if r.contains(defaults[n])}
        self._trials_per_cell, self._max_failures = trials_per_cell, max_failures
        self._seed = seed
        with storage_errors():
            storage = open_storage(url)
            self._studies = {
                cell: optuna.create_study(
                    storage=storage,
                    study_name=f"{sweep_id}/{cell.name}",
                    direction="maximize",
                    load_if_exists=True,
                )
                for cell in cells
            }
        self._asked = dict.fromkeys(cells, 0)
        for suggestion in self.every():
            self._asked[suggestion.cell] += 1
        with storage_errors():
            trials = {c: study.get_trials(deepcopy=False) for c, study in self._studies.items()}
        self._failures = {cell: _failures_in_a_row(known) for cell, known in trials.items()}
        self._told = {
            cell: {trial.number for trial in known if trial.state.is_finished()}
            for cell, known in trials.items()
        }

    def every(self) -> list[Suggestion]:
        """Return all trials handed out so far, whatever became of them."""
        with storage_errors():
            return [
                Suggestion(cell, trial.number, self._all_params(cell, trial))
                for cell, study in self._studies.items()
                for trial in study.get_trials(deepcopy=False)
                if trial.state != TrialState.WAITING
            ]

    def restore(self, suggestions: Iterable[Suggestion]) -> None:
        """Hand out again what was handed out before the storage was lost.

        Their outcomes are to be told afterwards. Trials of the same cells that are missing
        between them, which had not begun, are drawn anew.
        """
        lost: dict[Cell, dict[int, Suggestion]] = {}
        for suggestion in suggestions:
            lost.setdefault(suggestion.cell, {})[suggestion.number] = suggestion
        for cell, by_number in lost.items():
            while cell in self._studies and self._asked[cell] <= max(by_number):
                known = by_number.get(self._asked[cell])
                if known is None:
                    self._ask(cell)
                    continue
                with storage_errors():
                    self._studies[cell].add_trial(
                        optuna.trial.create_trial(
                            state=TrialState.RUNNING,
                            params=dict(known.hyperparameters),
                            distributions={**self._distributions},
                        )
                    )
                self._asked[cell] += 1

    def _sampler(self, cell: Cell, number: int) -> optuna.samplers.BaseSampler:
        """A sampler of its own for each index: a resumed sweep does not repeat suggestions."""
        seed = derive_seed(self._seed, cell.budget, cell.strength, number) % 2**32
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)

    def _all_params(self, cell: Cell, known: FrozenTrial) -> Mapping[str, float]:
        """Return a trial's parameters; those a kill left undrawn are drawn now.

        Optuna stores a new trial and each of its parameters one after the other.
        """
        if known.state.is_finished() or set(known.params) >= set(self._distributions):
            return known.params
        study = self._studies[cell]
        study.sampler = self._sampler(cell, known.number)
        trial = optuna.trial.Trial(study, known._trial_id)
        for name, range_ in self._distributions.items():
            trial.suggest_float(name, range_.low, range_.high, log=range_.log)
        return trial.params

    def has_next(self) -> bool:
        """Whether some cell that is not given up has had fewer trials than it is due."""
        return any(self._is_due(cell) for cell in self._studies)

    def given_up(self) -> list[Cell]:
        """Return the cells that get no more trials because too many failed in a row."""
        return [cell for cell, failed in self._failures.items() if failed >= self._max_failures]

    def next(self) -> Suggestion | None:
        """Return a new trial of the cell that has had the fewest, or ``None``."""
        due = [cell for cell in self._studies if self._is_due(cell)]
        if not due:
            return None
        return self._ask(min(due, key=lambda c: self._asked[c]))

    def _ask(self, cell: Cell) -> Suggestion:
        number = self._asked[cell]
        study = self._studies[cell]
        study.sampler = self._sampler(cell, number)
        with storage_errors():
            if number == 0 and self._defaults:
                study.enqueue_trial(self._defaults, skip_if_exists=True)
            trial = study.ask({**self._distributions})
        self._asked[cell] += 1
        return Suggestion(cell, trial.number, trial.params)

    def tell(self, cell: Cell, number: int, status: str, gain: float | None) -> None:
        """Record an outcome (a key of :data:`STATES`) once; later calls change nothing.

        A trial that ended with a gain that is no finite number, which Optuna refuses, has failed.
        """
        if number in self._told[cell]:
            return
        if status == "FINISHED" and not (gain is not None and math.isfinite(gain)):
            status = "FAILED"
        value = gain if status == "FINISHED" else None
        with storage_errors():
            self._studies[cell].tell(number, value, state=STATES[status])
        self._told[cell].add(number)
        self._failures[cell] = self._failures[cell] + 1 if status == "FAILED" else 0

    def _is_due(self, cell: Cell) -> bool:
        is_due = self._asked[cell] < self._trials_per_cell
        return is_due and self._failures[cell] < self._max_failures


def _failures_in_a_row(trials: Iterable[FrozenTrial]) -> int:
    """Return how many trials of a study have failed since the last one that did not."""
    ended = [trial for trial in trials if trial.state.is_finished()]
    ended.sort(key=lambda t: t.datetime_complete or datetime.max)
    failed = [t.state == TrialState.FAIL for t in reversed(ended)]
    return [*failed, False].index(False)


def to_distribution(given: FloatRange) -> FloatDistribution:
    """Return the Optuna distribution of a range."""
    return FloatDistribution(given.low, given.high, log=given.log)
