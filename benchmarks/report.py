"""What it takes to read a sweep of ten thousand trials, and whether what is read is right.

The sweep is invented, its MLflow store (sqlite) is a real one; each command runs in a process of
its own, as a person runs it. Front and hypervolume are compared with other code on the same
records: brute force, and Optuna's.

    python benchmarks/report.py                 # a minute or two
    python benchmarks/report.py --trials 1000
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from optuna._hypervolume import compute_hypervolume
from report_parts.recorded import MACS, invented, record
from rich.console import Console
from rich.table import Table

from orchestrator.config import SweepConfig
from orchestrator.home import Home
from orchestrator.pareto import hypervolume
from orchestrator.records import TrialRecord

CELLS = 12
RESULTS = Path(__file__).parent / "results" / "report.json"


def main() -> None:
    """Write the store, run the commands, compare, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    config = _sweep(parser.parse_args().trials // CELLS)
    records = list(invented(config))
    figures: dict[str, float] = {"trials": len(records)}
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        record(config, home, records)
        figures["database, MB"] = (home.root / "mlflow.db").stat().st_size / 1e6
        page = home.root / "page.html"
        for name, arguments in {
            "compare": [],
            "pareto": [],
            "report": ["--out", str(page)],
        }.items():
            before = os.times()
            _pas(home, name, config.sweep_id, *arguments)
            after = os.times()
            figures[f"pas {name}, seconds"] = after.elapsed - before.elapsed
            figures[f"pas {name}, CPU seconds"] = sum(after[2:4]) - sum(before[2:4])
        figures["page, MB"] = page.stat().st_size / 1e6
        text = _pas(home, "compare", config.sweep_id, "--csv")
        read = list(csv.DictReader(io.StringIO(text)))
        text = _pas(home, "pareto", config.sweep_id, "--json")
        members = {trial["trial_id"] for trial in json.loads(text)["trials"]}
    figures |= _compared(records, read, members)
    table = Table("figure", "value", title="reading a sweep", title_justify="left")
    for name, value in figures.items():
        table.add_row(name, f"{value:.6g}")
    Console().print(table)
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")


def _sweep(trials_per_cell: int) -> SweepConfig:
    return SweepConfig.model_validate(
        {
            "name": "many",
            "data": {"name": "digits"},
            "supernet": {"name": "repvgg_small"},
            "budget": {"limits": [0.75, 0.5, 0.25, 0.125]},
            "strengths": [1.0, 10.0, 100.0],
            "trials_per_cell": trials_per_cell,
            "hyperparameters": {
                "learning_rate": {"low": 0.01, "high": 0.5, "log": True},
                "weight_decay": {"low": 1e-5, "high": 1e-3, "log": True},
            },
        }
    )


def _pas(home: Home, *arguments: str) -> str:
    """Run a command; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *arguments],
        env={**os.environ, "PAS_HOME": str(home.root)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def _compared(
    records: list[TrialRecord], read: list[dict[str, str]], members: set[str]
) -> dict[str, float]:
    """Compare what was read with what was written, the front with brute force, the hypervolume."""
    finished = [r for r in records if r.status == "FINISHED"]
    points = np.array([[r.macs or 0, -(r.score or 0)] for r in finished])
    beaten = [
        bool(((points <= point).all(axis=1) & (points < point).any(axis=1)).any())
        for point in points
    ]
    front = {r.trial_id for r, lost in zip(finished, beaten, strict=True) if not lost}
    by_id = {row["trial_id"]: row for row in read}
    same = sum(by_id[r.trial_id]["accuracy"] == str(r.score or "") for r in records)
    ours = hypervolume(records, "macs", MACS)
    theirs = compute_hypervolume(points / [MACS, 1.0], np.array([1.0, 0.0]))
    return {
        "trials read as written": same,
        "on the front": len(members),
        "on the front by one way alone": len(front ^ members),
        "hypervolume": ours,
        "hypervolume, difference to Optuna's": abs(ours - float(theirs)),
    }


if __name__ == "__main__":
    main()
