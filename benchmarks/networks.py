"""Every network of torchvision, our own families and searched parts of detectors, checked.

Of each network about half of the channels are closed at random and removed. Checked are: the
sliced network computes what the gated one did (float64); MACs and parameters, full and sliced, are
those of an independent count; the sliced network trains; torch.export and ONNX Runtime agree with
it. Each network runs in a process of its own; rows go to ``results/networks.json`` as they come,
and ``docs/networks.md`` is made of all of them. Exit code 1 if a check fails.

    python benchmarks/networks.py                     # a dozen networks, minutes
    python benchmarks/networks.py --all --jobs 2      # all of them
    python benchmarks/networks.py --all --resume      # those that have no row yet
    python benchmarks/networks.py --only 'regnet*'    # these
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from network_checks.checks import check_and_send
from network_checks.page import table_row, write_page
from network_checks.subjects import Subject, all_subjects
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "networks.json"
PAGE = Path(__file__).parent.parent / "docs" / "networks.md"
PROCESSES = multiprocessing.get_context("forkserver")  # all imports are done once
PROCESSES.set_forkserver_preload(
    ["onnxruntime", "onnxscript", "pas_trainer", "torch.export", "torch.onnx", "torchvision"]
)


def main() -> int:
    """Check the networks asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every network, not the short list")
    parser.add_argument("--only", metavar="PATTERN", help="networks whose name matches")
    parser.add_argument("--resume", action="store_true", help="skip networks that have a row")
    parser.add_argument("--jobs", type=int, default=1, help="networks at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one network")
    options = parser.parse_args()
    rows = _read_rows()
    subjects = _chosen(options.all, options.only)
    if options.resume:
        subjects = [s for s in subjects if s.name not in rows]
    console = Console()
    for name, row in _check_each(subjects, options):
        rows[name] = row
        _write_rows(rows)
        console.print(f"{name}: {'; '.join(row['failures']) or 'ok'}", highlight=False)
    names = [s.name for s in all_subjects()]
    _print_table(console, {s.name: rows[s.name] for s in subjects})
    done = {name: rows[name] for name in names if name in rows}
    write_page(PAGE, done, [name for name in names if name not in rows])
    return int(any(rows[s.name]["failures"] for s in subjects))


def _chosen(everything: bool, pattern: str | None) -> list[Subject]:
    subjects = all_subjects()
    if pattern is not None:
        chosen = [s for s in subjects if fnmatch.fnmatch(s.name, pattern)]
        if not chosen:
            sys.exit(f"--only {pattern}: no network of that name; try --only '*{pattern}*'")
        return chosen
    return [s for s in subjects if everything or s.in_subset]


def _check_each(
    subjects: Sequence[Subject], options: argparse.Namespace
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows as they come; large networks run last and one at a time."""
    small = [s for s in subjects if not s.is_large]
    large = [s for s in subjects if s.is_large]
    for group, jobs in ((small, options.jobs), (large, 1)):
        with ThreadPoolExecutor(jobs) as pool:
            waiting: dict[Future[dict[str, Any]], str] = {
                pool.submit(_check_apart, s.name, options): s.name for s in group
            }
            for future in as_completed(waiting):
                yield waiting[future], future.result()


def _check_apart(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Check a network in a process of its own, which may run out of memory or time."""
    receive, send = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=check_and_send, args=(name, options.threads, send))
    process.start()
    send.close()
    try:
        if not receive.poll(options.timeout):
            process.kill()
            return {"failures": [f"not done after {options.timeout:.0f} s"]}
        row: dict[str, Any] = receive.recv()
    except EOFError:
        process.join()
        return {"failures": [f"its process ended with exit code {process.exitcode}"]}
    process.join()
    return row


def _read_rows() -> dict[str, Any]:
    rows: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return rows


def _write_rows(rows: dict[str, Any]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")


def _print_table(console: Console, rows: dict[str, Any]) -> None:
    shown = ("network", "searchable", "kept", "sliced vs gated", "torch.export", "ONNX", "checks")
    table = Table(*shown, box=None, pad_edge=False)
    for name, row in rows.items():
        cells = table_row(name, row)
        table.add_row(*(cells[column] for column in shown))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
