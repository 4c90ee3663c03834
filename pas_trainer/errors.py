"""What can go wrong in a trial, told apart by whose move it is."""

from __future__ import annotations


class DataError(ValueError):
    """The data cannot be used as it is (a missing folder, an undecodable image): users can mend it.

    The message is one sentence that names the path and the way out.
    """


class WeightsError(ValueError):
    """The weights a supernet shall start from cannot be read, fetched or used.

    The message is one sentence that names the weights and the way out.
    """


class DivergenceError(RuntimeError):
    """Training left the finite numbers: this trial is lost, others may go on."""


class TaskError(RuntimeError):
    """Code of the user's own task failed, or returned what it must not: only they can mend it.

    The message is one sentence that names the task, the method and the line.
    """
