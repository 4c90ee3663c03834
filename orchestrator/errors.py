"""Errors that are answered with one sentence and an exit code, never with a traceback."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return a text that can be printed and stored: names of files may be no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


class UserError(Exception):
    """Bad input or surroundings (exit code 2): the message names what, where and the way out."""


class SweepStoppedError(UserError):
    """The sweep stopped early in a state from which the same command resumes it."""


class WorkerLostError(Exception):
    """A process that trained a trial is gone, or its node; the trial goes on elsewhere."""
