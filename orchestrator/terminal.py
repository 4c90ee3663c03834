"""What the commands share: consoles, exit codes, and how results and errors are shown."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from pydantic_core import to_jsonable_python
from rich.console import Console

from orchestrator.errors import printable
from orchestrator.records import TrialRecord, controls_among, without_controls

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: done; failed trials or a refused gate; bad input; interrupted."""

out, err = Console(), Console(stderr=True)


@contextmanager
def resumable() -> Iterator[None]:
    """Tell an interrupted person that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        err.print("interrupted; the same command goes on from here")
        raise typer.Exit(INTERRUPTED) from None


def say(sentence: str, style: str | None = None) -> None:
    """Tell a person something on stderr, as it is: names in it may hold brackets."""
    err.print(sentence, style=style, highlight=False, soft_wrap=True, markup=False)


def fail(sentence: str) -> None:
    """End with a sentence about bad input."""
    say(printable(f"pas: {sentence}"))
    sys.exit(BAD_INPUT)


def limit_of(text: str) -> float | str:
    """Return a limit of the command line as a sweep file would hold it."""
    try:
        return float(text)
    except ValueError:
        return text


def plain(records: Sequence[TrialRecord]) -> dict[str, Any]:
    """Return records as JSON has them; controls in a list of their own, lest they be mistaken."""
    return {
        "trials": [r.to_json() for r in without_controls(records)],
        "controls": [r.to_json() for r in controls_among(records)],
    }


def show_csv(records: Sequence[TrialRecord]) -> None:
    """Print records as CSV: a column for each of their fields, what is nested as JSON."""
    metric = records[0].metric if records else "accuracy"
    known = (field.name for field in dataclasses.fields(TrialRecord))
    names = [{"score": metric, "test_score": f"test_{metric}"}.get(name, name) for name in known]
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    for record in records:
        fields = record.to_json().items()
        writer.writerow({k: json.dumps(v) if isinstance(v, dict) else v for k, v in fields})


def show(document: Any, as_json: bool, shown: Sequence[Any]) -> None:
    """Print the document, or what a person would rather look at."""
    if as_json:
        plain_json = to_jsonable_python(document, inf_nan_mode="null")  # NaN is not JSON
        sys.stdout.write(json.dumps(plain_json, indent=1) + "\n")
        return
    for item in shown:
        if isinstance(item, str):  # may name a folder with brackets
            out.print(item, markup=False, soft_wrap=True)
        else:
            out.print(item)
