"""A task of the user's own: what its code raises, or returns and must not, is one sentence."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pas_trainer.errors import DataError, DivergenceError, TaskError, WeightsError
from pas_trainer.tasks.metric import Metric
from pas_trainer.tasks.task import Task
from search_space.fakes import first_line

_GUARDED = (
    *("check_data", "open_data", "load_data", "num_outputs", "suit", "example", "check_network"),
    *("companion", "preparer", "forward", "loss", "judge", "preview", "plain", "shipped"),
)
_MAY_REFUSE = ("check_data", "check_network", "plain")
"""Whose ValueErrors are sentences already."""

_PASS = (DataError, WeightsError, DivergenceError, TaskError, MemoryError, torch.OutOfMemoryError)
_ABOUT = ("classes", "channels", "image_size")
_OF_DATA = {
    "open_data": (*_ABOUT, "train", "validation", "test", "version", "fingerprint"),
    "load_data": (*_ABOUT, "train", "validation", "test", "mean", "std"),
}


def guarded(task: Task, name: str) -> Task:
    """Let the methods of a task say in one sentence what is wrong with them; returns the task.

    They raise :class:`pas_trainer.TaskError` where they raised something else before, except for
    what has a meaning here: data or weights that cannot be used, and too little memory.

    Args:
        task: a task of the user's own, changed in place.
        name: as in a sweep file.
    """
    guard = _Guard(task, name)
    for method in _GUARDED:
        if getattr(type(task), method) is getattr(Task, method):
            continue  # not the user's own
        object.__setattr__(task, method, _Guarded(guard, method, getattr(task, method)))
    return task


class _Guarded:
    """One method; a class of its own, so that a task can be pickled."""

    def __init__(self, guard: _Guard, name: str, method: Callable[..., Any]) -> None:
        self._guard, self._name, self._method = guard, name, method

    def __call__(self, *values: Any, **options: Any) -> Any:
        found = self._guard.call(self._name, self._method, *values, **options)
        return self._guard.checked(self._name, found)


class _Guard:
    def __init__(self, task: Task, name: str) -> None:
        self.metric: Metric = task.metric
        self._name = name
        self._file = getattr(sys.modules.get(type(task).__module__), "__file__", None)

    def checked(self, method: str, found: Any) -> Any:
        """Return what a method returned, itself guarded where it is code again."""
        if method in _OF_DATA:
            return self._data(method, found)
        checks: Mapping[str, Callable[[Any], Any]] = {
            "num_outputs": self._number,
            "preparer": self._preparer,
            "loss": self._loss,
            "judge": self._judge,
        }
        return checks[method](found) if method in checks else found

    def call(self, what: str, function: Callable[..., Any], *values: Any, **options: Any) -> Any:
        try:
            return function(*values, **options)
        except _PASS:
            raise
        except (Exception, SystemExit) as error:  # the user's own code can raise anything
            if isinstance(error, ValueError) and what in _MAY_REFUSE:
                raise
            reason, kind = first_line(error), type(error).__name__
            told = kind if reason == kind else f"{kind}: {reason}"
            raise self.fault(f"{what} failed: {told}{self._place(error)}") from error

    def fault(self, sentence: str) -> TaskError:
        return TaskError(f"task {self._name}: {sentence}")

    def _place(self, error: BaseException) -> str:
        """Return the last line of the task's own file that led there, or the last of all."""
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
        own = [frame for frame in frames if frame.filename == self._file] or frames
        return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""

    def _data(self, method: str, found: Any) -> Any:
        for name in _OF_DATA[method]:
            if not hasattr(found, name):
                kind = type(found).__name__
                raise self.fault(f"{method} returned a {kind} without {name}; see pas_trainer.Task")
        for split in ("train", "validation", "test"):
            if not self.call(f"len({split}) of {method}", len, getattr(found, split)):
                raise self.fault(f"the {split} split of {method} is empty; give it an image")
        return found

    def _number(self, found: Any) -> Any:
        if type(found) is not int:
            raise self.fault(f"num_outputs returned {found!r}; it must return a whole number")
        return found

    def _preparer(self, prepare: Any) -> Callable[[Any], tuple[Any, Any]]:
        def call(batch: Any) -> tuple[Any, Any]:
            made = self.call("what preparer returned", prepare, batch)
            if not (isinstance(made, tuple | list) and len(made) == 2):
                kind = type(made).__name__
                raise self.fault(
                    f"what preparer returned made a {kind} of a batch; it must make two things, "
                    "inputs and targets"
                )
            return made[0], made[1]

        return call

    def _loss(self, loss: Any) -> Tensor:
        if not (isinstance(loss, Tensor) and loss.ndim == 0):
            shape = f" of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else ""
            raise self.fault(
                f"loss returned a {type(loss).__name__}{shape}; it must return a tensor of shape ()"
            )
        if torch.is_grad_enabled() and not loss.requires_grad:
            raise self.fault("loss returned a tensor without a gradient; compute it from outputs")
        return loss

    def _judge(self, judge: Any) -> _GuardedJudge:
        for name in ("update", "compute"):
            if not callable(getattr(judge, name, None)):
                raise self.fault(f"judge returned a {type(judge).__name__} without {name}()")
        return _GuardedJudge(self, judge)


class _GuardedJudge:
    def __init__(self, guard: _Guard, judge: Any) -> None:
        self._guard, self._judge = guard, judge

    def __getattr__(self, name: str) -> Any:
        """Give a task what else its own judge has."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._judge, name)

    def update(self, answers: Any, targets: Any) -> None:
        self._guard.call("judge.update", self._judge.update, answers, targets)

    def compute(self) -> dict[str, float]:
        figures = self._guard.call("judge.compute", self._judge.compute)
        try:
            return self._guard.metric.check_figures(figures)
        except ValueError as error:
            raise self._guard.fault(str(error)) from error
