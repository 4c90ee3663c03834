"""From a sweep file to a registered model, on real handwritten digits, in a few minutes.

Runs the ``pas`` commands a user would type and then, with plain MLflow, loads the promoted model
back from the registry and classifies images that no training has seen.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from orchestrator.loading import load_sweep
from pas_trainer import open_sources

ROOT = Path(__file__).resolve().parent.parent
HOME = Path(os.environ.get("PAS_HOME") or ROOT / ".pas").resolve()
SWEEP_FILE = ROOT / "examples" / "digits.yaml"
MODEL, BUDGET = "digits", 0.5

CLASSIFY = """
import mlflow, numpy as np, sys
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(f"models:/{sys.argv[2]}@champion")
held_out = np.load(sys.argv[3])
images, labels = held_out["images"], held_out["labels"]
predicted = model.predict(images).argmax(axis=1)
for i in (0, 1, 2):
    for row in images[i, 0]:
        print("   ", "".join(" .:-=+*#%@"[int(v * 9)] * 2 for v in row))
    print(f"    -> {predicted[i]} (is {labels[i]})\\n")
print(f"{(predicted == labels).sum()} of {len(labels)} held-out images are classified correctly")
"""


def main() -> int:
    """Run the demo; stop at the first command that fails."""
    begun = time.monotonic()
    os.environ["PAS_HOME"] = str(HOME)
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    pas("sweep", str(SWEEP_FILE))
    pas("promote", "digits", "--budget", str(BUDGET), "--model", MODEL)
    store = f"sqlite:///{HOME / 'mlflow.db'}"
    say(f"plain MLflow loads models:/{MODEL}@champion and classifies held-out images")
    with tempfile.TemporaryDirectory() as folder:
        images = save_held_out(Path(folder) / "held_out.npz")
        run([sys.executable, "-c", CLASSIFY, store, MODEL, str(images)])
    say(f"done in {time.monotonic() - begun:.0f} s; look around with: .venv/bin/pas ui")
    return 0


def save_held_out(path: Path) -> Path:
    """Write the test split, which no trial was trained or chosen on, and return ``path``."""
    test = open_sources(load_sweep(SWEEP_FILE).data).test
    images = np.stack([np.asarray(image, np.float32).transpose(2, 0, 1) for image in test.images])
    np.savez(path, images=images / 255, labels=np.asarray(test.labels))
    return path


def pas(*arguments: str) -> None:
    """Run one ``pas`` command in sight."""
    say("pas " + " ".join(arguments))
    run([sys.executable, "-m", "orchestrator", *arguments])


def say(line: str) -> None:
    """Print a line that stands out."""
    print(f"\n$ {line}", flush=True)


def run(command: list[str]) -> None:
    """Run a command; leave with its exit code if it fails. Ctrl-C is the command's to answer."""
    with subprocess.Popen(command, cwd=ROOT) as child:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        code = child.wait()
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    sys.exit(main())
