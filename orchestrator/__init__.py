"""Many trials: configuration, cells, Ray Tune, Optuna, MLflow, the command line."""

import os

# Read when torch is first imported: its threads spin only shortly before they sleep. By default
# they spin on where others want the same cores, and a step that two threads share takes far longer.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
