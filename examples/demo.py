"""From a sweep file to a registered model, on real handwritten digits, in a few minutes.

Runs the ``pas`` commands a user would type and then, with plain MLflow, loads the promoted model
back from the registry and classifies images that no training has seen.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = Path(os.environ.get("PAS_HOME") or ROOT / ".pas").resolve()
MODEL, BUDGET = "digits", 0.5

CLASSIFY = """
import mlflow, numpy as np, sys
from sklearn.datasets import load_digits
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(f"models:/{sys.argv[2]}@champion")
digits = load_digits()
images = (digits.images / 16).astype(np.float32)[:, None]
held_out = slice(1500, None)
predicted = model.predict(images[held_out]).argmax(axis=1)
for i in (0, 1, 2):
    for row in images[held_out][i, 0]:
        print("   ", "".join(" .:-=+*#%@"[int(v * 9)] * 2 for v in row))
    print(f"    -> {predicted[i]} (is {digits.target[held_out][i]})\\n")
"""


def main() -> int:
    """Run the demo; stop at the first command that fails."""
    begun = time.monotonic()
    os.environ["PAS_HOME"] = str(HOME)
    sweep_file = str(ROOT / "examples" / "digits.yaml")
    pas("sweep", sweep_file)
    pas("compare", "digits")
    pas("pareto", "digits")
    pas("promote", "digits", "--budget", str(BUDGET), "--model", MODEL)
    store = f"sqlite:///{HOME / 'mlflow.db'}"
    say(f"plain MLflow loads models:/{MODEL}@champion and classifies held-out images")
    run([sys.executable, "-c", CLASSIFY, store, MODEL])
    say(f"done in {time.monotonic() - begun:.0f} s; look around with: .venv/bin/pas ui")
    return 0


def pas(*arguments: str) -> None:
    """Run one ``pas`` command in sight."""
    say("pas " + " ".join(arguments))
    run([sys.executable, "-m", "orchestrator", *arguments])


def say(line: str) -> None:
    """Print a line that stands out."""
    print(f"\n$ {line}", flush=True)


def run(command: list[str]) -> None:
    """Run a command; leave with its exit code if it fails."""
    code = subprocess.call(command, cwd=ROOT)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    sys.exit(main())
