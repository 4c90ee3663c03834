"""What latency is measured on, and the cache of its table: one JSON file per device."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from search_space.latency import LatencyTable

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTarget:
    """Where and how a network will run."""

    device: str = "cpu"
    """torch's name of the device: ``cpu``, ``cuda``, ``cuda:1``."""
    num_threads: int = 1
    """CPU threads torch may use."""
    batch_size: int = 1
    """Images per pass; latency is that of the whole batch."""
    dtype: str = "float32"
    """Type of weights and activations, one of :data:`DTYPES`."""
    channels_last: bool = False
    """Whether images and kernels lie in memory with the channels innermost."""

    def check(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            ValueError: a field is out of range or the device does not exist.
        """
        for name in ("num_threads", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; it must be one of {', '.join(DTYPES)}")
        try:
            torch.empty(1, device=self.device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"device {self.device!r} cannot be used: {reason}") from error
        if torch.device(self.device).type not in {"cpu", "cuda"}:
            raise ValueError(f"device is {self.device!r}; latency is measured on cpu or cuda")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type as torch knows it."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def key(self) -> str:
        """All that a measured time depends on besides the operator."""
        device = torch.device(self.device)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
        return ", ".join([name, *self._words(f"torch {torch.__version__}").values()])

    def differing(self, key: str) -> list[str]:
        """Return the fields in which another target's :attr:`key` is not of such a target."""
        words = set(key.split(", "))
        differing = [n for n, word in self._words("").items() if word and word not in words]
        if not self.channels_last and "channels_last" in words:
            differing.append("channels_last")
        has_threads = any(word.endswith((" thread", " threads")) for word in words)
        if has_threads != (torch.device(self.device).type == "cpu"):
            differing.append("device")
        return differing

    def _words(self, version: str) -> dict[str, str]:
        """Return what the key says of each field."""
        words = {
            "torch": version,
            "batch_size": f"batch {self.batch_size}",
            "dtype": self.dtype,
        }
        if torch.device(self.device).type == "cpu":
            threads = f"{self.num_threads} thread{'s' * (self.num_threads > 1)}"
            words = {"num_threads": threads, **words}
        return words | ({"channels_last": "channels_last"} if self.channels_last else {})


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def table_path(folder: Path, target: LatencyTarget) -> Path:
    """Return the file in which the table of a target is kept."""
    words = re.sub(r"[^a-z0-9.]+", "-", target.key.lower()).strip("-")[:80]
    return folder / f"latency-{words}-{hashlib.sha256(target.key.encode()).hexdigest()[:8]}.json"


def read_table(folder: Path | None, target: LatencyTarget) -> LatencyTable:
    """Return the table kept in a folder, empty if there is none.

    Raises:
        ValueError: the file is damaged or belongs to another device.
    """
    empty = LatencyTable(target.key, {}, {})
    if folder is None or not (path := table_path(folder, target)).exists():
        return empty
    try:
        table = LatencyTable.from_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to measure again") from error
    if table.device != target.key:
        raise ValueError(
            f"{path} was measured on {table.device}, not on {target.key}; "
            "delete it to measure again"
        )
    return table


def write_table(folder: Path | None, target: LatencyTarget, table: LatencyTable) -> None:
    """Keep a table, joined with what others have written meanwhile, in one step."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    kept = read_table(folder, target)
    grids, factors = {**kept.grids, **table.grids}, {**kept.factors, **table.factors}
    joined = LatencyTable(target.key, grids, factors)
    handle, name = tempfile.mkstemp(dir=folder, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(joined.to_json())
        Path(name).replace(table_path(folder, target))
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
