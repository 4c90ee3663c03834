"""What the orchestrator itself costs: idle slots, trials per second, memory, time to resume.

Trials are real ones on digits, or do nothing but report one epoch.

    python benchmarks/orchestration.py                  # about ten minutes on two cores
    python benchmarks/orchestration.py --part slots     # real trials: slots busy, time between two
    python benchmarks/orchestration.py --part rate      # trials without work, beside Ray Tune's own
    python benchmarks/orchestration.py --part many      # ten thousand of them over twelve cells
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from orchestration_parts.rival import tune_with_mlflow
from orchestration_parts.sweeps import no_work, run, sweep_of, timed, times_of
from rich.console import Console
from rich.table import Table

LIMITS, STRENGTHS = (0.75, 0.5, 0.25, 0.125), (1.0, 10.0, 100.0)
RESULTS = Path(__file__).parent / "results" / "orchestration.json"


def main() -> None:
    """Measure, print, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one")
    parser.add_argument("--trials", type=int, help="how many, in parts without work")
    parser.add_argument("--epochs", type=int, default=100, help="of each trial of part slots")
    options = parser.parse_args()
    console = Console()
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part in options.part or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            figures = PARTS[part](options, Path(folder))
        kept[part] = figures
        table = Table("figure", "value", title=part, title_justify="left")
        for name, value in figures.items():
            table.add_row(name, f"{value:.4g}")
        console.print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


def _slots(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Real trials on digits, as long as asked for, one after the other on every slot."""
    run(sweep_of((0.5, 0.25), (10.0,), 4, options.epochs), folder, timed)
    trials = times_of(folder)
    first, last = min(t.started for t in trials), max(t.ended for t in trials)
    slots: list[float] = []  # when each became free
    gaps = []
    for trial in trials:
        free = [end for end in slots if end <= trial.started]
        if not free:
            slots.append(trial.ended)
            continue
        before = max(free)
        gaps.append(trial.first_step - before)
        slots[slots.index(before)] = trial.ended
    busy = sum(trial.ended - trial.started for trial in trials)
    tail = sum(last - end for end in slots)  # nothing was left to run
    return {
        "trials": len(trials),
        "slots": len(slots),
        "seconds per trial": busy / len(trials),
        "slots busy": busy / (len(slots) * (last - first) - tail),
        "from a trial's end to the next one's first step, median s": statistics.median(gaps),
        "the same, longest s": max(gaps),
    }


def _rate(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Trials without work, tracked in SQLite by either."""
    count = options.trials or 300
    ours = run(sweep_of(LIMITS, STRENGTHS, count // 12, 1), folder / "ours", no_work)
    theirs = tune_with_mlflow(count, folder / "theirs", reuse_actors=False)
    reused = tune_with_mlflow(count, folder / "reused", reuse_actors=True)
    return {
        "trials": count,
        "ours, trials/s": count / ours.seconds,
        "Ray Tune with MLflowLoggerCallback, trials/s": count / theirs,
        "ours over theirs": theirs / ours.seconds,
        "Ray Tune with reuse_actors, trials/s": count / reused,
        "ours over that": reused / ours.seconds,
    }


def _many(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """A sweep of very many trials, and the same command once more."""
    count = options.trials or 10_000
    sweep = sweep_of(LIMITS, STRENGTHS, -(-count // 12), 1)
    ran = run(sweep, folder, no_work)
    tenth = len(ran.ends) // 10
    first, last = ran.ends[tenth] - ran.ends[0], ran.ends[-1] - ran.ends[-1 - tenth]
    start = time.monotonic()
    again = run(sweep, folder, no_work)
    assert not again.ends
    return {
        "trials": len(ran.ends),
        "trials/s": len(ran.ends) / ran.seconds,
        "last tenth over first tenth, seconds": last / first,
        "driver's peak memory, GB": ran.peak_gb,
        "resume of the finished sweep, s": time.monotonic() - start,
    }


PARTS = {"slots": _slots, "rate": _rate, "many": _many}


if __name__ == "__main__":
    main()
