"""The one folder that holds all state: ``PAS_HOME``, by default ``.pas``.

::

    mlflow.db, mlartifacts/   tracking store
    optuna.db                 studies, unless PAS_OPTUNA_URL names a database
    latency/                  measured operators, one file per device
    searches/SWEEP_ID/        of ``pas search``: latency.json where latency is limited, and a
                              folder for each trial, with what one of a sweep has
    serving-*/                what ``pas serve`` serves, for as long as it does
    supernets/KEY/            trained supernets, by content
    sweeps/SWEEP_ID/          sweep.json, usage.json, lock, driver.log,
                              latency.json where latency is limited,
                              ray/ while it runs: Ray's own files,
                              trials/TRIAL_ID/{trial.json, checkpoint.pt} while it runs, then
                              {architecture.json, result.json}, error.txt if it failed, and
                              weights and previews while they are kept;
                              epochs.jsonl until the tracking store has its epochs

With ``storage.uri`` the last two lie on an object store, under the same paths; of what workers
write, the home folder then has what is small. Ray's files and epochs.jsonl stay in it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import UserError

RESULT_FILE = "result.json"
"""Of a trial: written last; a trial whose folder holds it is never run again."""

TRIAL_FILE = "trial.json"
"""Of a trial that has begun: its record so far, with the hyper-parameters."""

CHECKPOINT_FILE = "checkpoint.pt"

STATE_FILES = (TRIAL_FILE, CHECKPOINT_FILE)
"""Of a trial: replaced while it runs, superfluous once it has a result."""

PREVIEW_FILES = tuple(
    f"preview_{phase}.jpg" for phase in ("pretrain", "search", "finetune", "control")
)
"""Of a trial: pictures of what its network does after each phase, if its task draws any."""

TABLE_FILE = "latency.json"
"""Of a sweep: the latency table that all its trials go by, never measured again."""

USAGE_FILE = "usage.json"
"""Of a sweep: what it has used so far."""

_RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray in the environment of a job


@dataclass(frozen=True, slots=True)
class Home:
    """Paths below the home folder; nothing is created until something is written."""

    root: Path

    @classmethod
    def from_environment(cls) -> Home:
        """Return the folder named by ``PAS_HOME``, or ``.pas`` in the working folder.

        Raises:
            UserError: it is no path; or it is not named, in a job of a Ray cluster (whose working
                folder goes).
        """
        if not os.environ.get("PAS_HOME") and _RAY_JOB in os.environ:
            raise UserError(
                "PAS_HOME is not set in the environment that the cluster was started with; set it "
                "on all nodes to a folder that all of them see"
            )
        try:
            return cls(Path(os.environ.get("PAS_HOME") or ".pas").expanduser().resolve())
        except RuntimeError as error:
            raise UserError(f"PAS_HOME is {os.environ['PAS_HOME']!r}: {error}") from None

    @property
    def mlflow_uri(self) -> str:
        """Tracking URI of the local store."""
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        """Artifacts of the local tracking store."""
        return self.root / "mlartifacts"

    @property
    def optuna_url(self) -> str:
        """Storage of the studies: ``PAS_OPTUNA_URL`` (it may hold a password), or a file here."""
        return os.environ.get("PAS_OPTUNA_URL") or f"sqlite:///{self.root / 'optuna.db'}"

    @property
    def latency(self) -> Path:
        """Folder of the measured latency tables, by device."""
        return self.root / "latency"

    def supernet(self, key: str) -> Path:
        """Folder of one trained supernet."""
        return self.root / "supernets" / key

    def sweep(self, sweep_id: str) -> Path:
        """Folder of one sweep."""
        return self.root / "sweeps" / sweep_id

    def trial(self, sweep_id: str, trial_id: str) -> Path:
        """Folder of one trial."""
        return self.sweep(sweep_id) / "trials" / trial_id

    def record_of(self, sweep: str) -> Path | None:
        """Return ``sweep.json`` of a sweep (id, or name: then its latest) started from here.

        Files that are damaged count only where there is no other of this name.

        Raises:
            UserError: then the one that there is is damaged.
        """
        found, damaged = [], []
        for path in self.root.glob("sweeps/*/sweep.json"):
            sweep_id = path.parent.name
            try:
                name = read_sweep(path)["config"]["name"]
            except UserError as error:
                if sweep in {sweep_id, sweep_id.rpartition("-")[0]}:
                    damaged.append(error)
            else:
                if sweep in {sweep_id, name}:
                    found.append((path.stat().st_mtime, path))
        if damaged and not found:
            raise damaged[0]
        return max(found)[1] if found else None

    def tracking_uri_of(self, sweep: str) -> str | None:
        """Tracking URI of a sweep (id, or name: then its latest) started from this home.

        Raises:
            UserError: as :meth:`record_of`.
        """
        path = self.record_of(sweep)
        return None if path is None else str(read_sweep(path)["tracking_uri"])


def read_sweep(path: Path) -> dict[str, Any]:
    """Return what a ``sweep.json`` holds.

    Raises:
        UserError: it is damaged.
    """
    return parse_sweep_record(path.read_bytes(), str(path))


def parse_sweep_record(content: bytes, where: str) -> dict[str, Any]:
    """As :func:`read_sweep`, of a file or an object; ``where`` is its address, for the sentence."""
    try:
        document: dict[str, Any] = json.loads(content)
        whole = isinstance(document["config"]["name"], str) and document["tracking_uri"]
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = None
    if not isinstance(whole, str):
        raise UserError(
            f"{where} is damaged: it does not hold the settings of a sweep; restore it, or remove "
            "it and run the sweep's file again, which writes a new one"
        )
    return document


def write_json(path: Path, document: Any) -> None:
    """Write ``path`` in one step: a kill leaves the old file or the new one, never half."""
    write_text(path, json.dumps(document, indent=1))


def write_text(path: Path, text: str) -> None:
    """As :func:`write_json`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """As :func:`write_json`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
