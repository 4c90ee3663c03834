"""Which task a sweep is about, and where its code is."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pas_trainer.tasks.classification import Classification
from pas_trainer.tasks.guard import guarded
from pas_trainer.tasks.metric import Metric
from pas_trainer.tasks.segmentation import InstanceSegmentation
from pas_trainer.tasks.task import Task
from pas_trainer.tasks.translation import ImageTranslation
from search_space import Architecture, find_attribute
from search_space.fakes import first_line

TASKS: Mapping[str, type[Task]] = {
    "classification": Classification,
    "instance_segmentation": InstanceSegmentation,
    "image_translation": ImageTranslation,
}
"""The project's own, by name."""

FORMS = ("program", "onnx")
"""What :attr:`Task.form` may be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskConfig:
    """What the network is for (``task:`` in a sweep file, there also a name alone)."""

    name: str = "classification"
    """One of :data:`TASKS`, or ``import:package.module:Name`` for a task of your own."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of that task."""

    def __post_init__(self) -> None:
        """Check the name; options are checked where the task is made."""
        if self.name in TASKS:
            return
        parts = self.name.split(":")
        if not (len(parts) == 3 and parts[0] == "import" and all(parts)):
            close = difflib.get_close_matches(self.name, TASKS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(TASKS)}"
            raise ValueError(
                f"name is {self.name!r}; {hint}; a task of your own is import:package.module:Name"
            )


def task_of(architecture: Architecture) -> Task:
    """Return the task that a searched network is for; errors as of :func:`make_task`."""
    return make_task(TaskConfig(name=architecture.task, options=architecture.task_options))


def make_task(config: TaskConfig) -> Task:
    """Return the task of a configuration; one of the user's own raises :class:`TaskError` alone.

    Raises:
        ValueError: it cannot be imported, is no task, does not take these options, or says
            something of itself that it cannot be; one sentence.
    """
    kind: Any = TASKS.get(config.name)
    if kind is None:
        kind = find_attribute(config.name, "task")
        if not (inspect.isclass(kind) and issubclass(kind, Task)):
            raise ValueError(f"task {config.name} is no subclass of pas_trainer.Task")
    if missing := sorted(kind.__abstractmethods__):
        raise ValueError(f"task {config.name} lacks {', '.join(missing)}; see pas_trainer.Task")
    try:
        task: Task = kind(**config.options)
    except ValueError as error:
        raise ValueError(first_line(error)) from error
    except (Exception, SystemExit) as error:  # a constructor of the user's own can raise anything
        reason = first_line(error)
        told = reason if isinstance(error, TypeError) else f"{type(error).__name__}: {reason}"
        raise ValueError(f"task {config.name} cannot be made with its options: {told}") from error
    _check_attributes(task, config.name)
    return task if config.name in TASKS else guarded(task, config.name)


def _check_attributes(task: Task, name: str) -> None:
    if not isinstance(getattr(task, "metric", None), Metric):
        raise ValueError(f"task {name} has no metric; set it to a pas_trainer.Metric")  # noqa: TRY004
    if task.form not in FORMS:
        raise ValueError(f"form of task {name} is {task.form!r}; known: {', '.join(FORMS)}")
    names = task.datasets
    if not (isinstance(names, tuple | list) and all(isinstance(n, str) for n in names)):
        raise ValueError(f"datasets of task {name} is {names!r}; write it like ('custom',)")
