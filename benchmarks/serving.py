"""Serving over HTTP beside the bare network: what does a request cost, and what do bad ones?

``pas serve`` is started on loopback and loaded by Locust, a process of its own on the same machine.
Beside it stands the bare loop: the same ONNX file in ONNX Runtime, prepared images, nothing else.
Then come malformed and oversized requests, three times over. Resident memory is that of Ray
Serve's proxy and replicas.

    make demo && python benchmarks/serving.py
    python benchmarks/serving.py MODEL        # registered in this PAS_HOME, or an exported folder
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from deploy.export_folder import ONNX_FILE
from deploy.onnx_export import onnx_network
from orchestrator.shipping import export
from orchestrator.wanted import Wanted, folder_of

RESULTS = Path(__file__).parent / "results" / "serving.json"
LOAD = Path(__file__).parent / "serving_parts" / "load.py"
_THREADS = 1
_MALFORMED, _OVERSIZED = 300, 60
_BODY_MIB = 4


def main() -> None:
    """Measure, print tables, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="digits", help="default: the demo's")
    parser.add_argument("--seconds", type=int, default=15, help="of each load")
    parser.add_argument("--users", type=int, nargs="+", default=[1, 16])
    options = parser.parse_args()
    console = Console()
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = folder_of(Wanted(model=options.model)) or Path(temporary) / "export"
        if not folder.exists():
            export(Wanted(model=options.model), folder, formats=["onnx"])
        images = Path(temporary) / "images"
        with _server(folder) as (process, url):
            described = requests.get(f"{url}/model", timeout=60).json()
            _write_images(images, described)
            _load(url, images, 8, 5)  # to warm up
            memory = {"before": _memory(process)}
            served = {users: _load(url, images, users, options.seconds) for users in options.users}
            memory["after_load"] = _memory(process)
            statuses = _bad_requests(url)
            memory["after_bad_requests"] = _memory(process)
            for _ in range(2):
                _bad_requests(url)
            memory["after_three_times_as_many"] = _memory(process)
        bare = {size: _bare(folder, described, size) for size in (1, 32)}
    document = {
        "machine": {"processors": os.cpu_count(), "load_before": busy, "threads": _THREADS},
        "model": {key: described[key] for key in ("model", "version", "image_size", "engine")},
        "bare_images_per_s": bare,
        "served": {
            users: {**row, "ratio_to_bare": row["requests_per_s"] / bare[1]}
            for users, row in served.items()
        },
        "bad_requests": statuses,
        "memory_mib": memory,
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    _show(console, document)


@contextmanager
def _server(folder: Path) -> Iterator[tuple[psutil.Process, str]]:
    """Run ``pas serve`` on a free port; give its process and address once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "orchestrator", "serve", str(folder), f"--port={port}"]
    options = [f"--threads={_THREADS}", f"--max-body-mib={_BODY_MIB}"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline(), "pas serve did not start"
        yield psutil.Process(process.pid), f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(120)


def _write_images(folder: Path, described: dict[str, Any]) -> None:
    """Write noise as image files; what is in them makes no difference."""
    folder.mkdir()
    rng, size = np.random.default_rng(0), described["image_size"]
    shape = (size, size, 3) if described["channels"] == 3 else (size, size)
    for number in range(64):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def _load(url: str, images: Path, users: int, seconds: int) -> dict[str, Any]:
    """Let users of Locust send images; return requests per second, and milliseconds."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "locust", "--locustfile", str(LOAD), "--headless", "--json"),
            *("--users", str(users), "--spawn-rate", str(users), "--host", url),
            *("--run-time", f"{seconds}s", "--loglevel", "ERROR", "--exit-code-on-error", "0"),
        ],
        env={**os.environ, "PAS_BENCH_IMAGES": str(images)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    (row,) = json.loads(done.stdout)
    spent = row["last_request_timestamp"] - row["start_time"]
    times = sorted((float(ms), count) for ms, count in row["response_times"].items())
    return {
        "requests": row["num_requests"],
        "failures": row["num_failures"],
        "requests_per_s": row["num_requests"] / spent,
        "p50_ms": _percentile(times, 0.50),
        "p99_ms": _percentile(times, 0.99),
    }


def _percentile(times: list[tuple[float, int]], share: float) -> float:
    """Return a percentile of values with counts; Locust rounds those above 100 ms to ten."""
    left = share * sum(count for _, count in times)
    for value, count in times:
        left -= count
        if left <= 0:
            return value
    raise AssertionError("there were no requests")


def _bare(folder: Path, described: dict[str, Any], size: int) -> float:
    """Return images per second of the network alone, in batches, the median of many."""
    network = onnx_network(folder / ONNX_FILE, _THREADS)
    shape = (size, described["channels"], described["image_size"], described["image_size"])
    images, seconds = torch.rand(shape), []
    deadline = time.perf_counter() + 4
    while time.perf_counter() < deadline:
        began = time.perf_counter()
        network(images)
        seconds.append(time.perf_counter() - began)
    return size / statistics.median(seconds)


def _bad_requests(url: str) -> dict[str, dict[str, int]]:
    """Send what must be refused; return how often it was answered by which status."""
    png = {"Content-Type": "image/png"}
    malformed: tuple[dict[str, Any], ...] = (
        {"data": b"\x89PNG\r\n\x1a\n" + bytes(500), "headers": png},
        {"data": b"{", "headers": {"Content-Type": "application/json"}},
        {"json": {"image": [[1, 2], [3]]}},
        {"data": '{"image": [[NaN]]}', "headers": {"Content-Type": "application/json"}},
        {"data": b"x", "headers": {"Content-Type": "text/plain"}},
        {"data": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
    )
    large = bytes((_BODY_MIB << 20) + 1)

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(large), 1 << 16):
            yield large[start : start + (1 << 16)]

    found: dict[str, Counter[str]] = {"malformed": Counter(), "oversized": Counter()}
    for number in range(_MALFORMED):
        request = malformed[number % len(malformed)]
        found["malformed"][_status(url, **request)] += 1
    for number in range(_OVERSIZED):
        body = large if number % 2 else pieces()
        found["oversized"][_status(url, data=body, headers=png)] += 1
    return {name: dict(counted) for name, counted in found.items()}


def _status(url: str, **request: Any) -> str:
    """Return the status; what is sent after a refusal may meet a closed connection."""
    try:
        return str(requests.post(f"{url}/predict", timeout=60, **request).status_code)
    except requests.ConnectionError:
        return "connection closed"


def _memory(process: psutil.Process) -> dict[str, float]:
    """Return resident MiB of Serve's processes, by name."""
    found: dict[str, float] = {}
    for child in process.children(recursive=True):
        title = " ".join(child.cmdline())
        for kind in ("ProxyActor", "ServeReplica"):
            if title.startswith(f"ray::{kind}"):
                found[kind] = found.get(kind, 0) + child.memory_info().rss / (1 << 20)
    return {kind: round(mib, 1) for kind, mib in found.items()}


def _show(console: Console, document: dict[str, Any]) -> None:
    machine, bare = document["machine"], document["bare_images_per_s"]
    console.print(
        f"{machine['processors']} processors, load {machine['load_before']:.1f} before, "
        f"{machine['threads']} thread computes; bare loop: {bare[1]:.0f} images/s alone, "
        f"{bare[32]:.0f} in batches of 32"
    )
    table = Table("users", "requests/s", "of the bare loop", "p50 ms", "p99 ms", "failed")
    for users, row in document["served"].items():
        cells = (
            f"{row['requests_per_s']:.0f}",
            f"{row['ratio_to_bare']:.3f}",
            f"{row['p50_ms']:.0f}",
            f"{row['p99_ms']:.0f}",
            f"{row['failures']} of {row['requests']}",
        )
        table.add_row(str(users), *cells)
    console.print(table)
    for name, counted in document["bad_requests"].items():
        console.print(f"{name}: {counted}")
    for when, mib in document["memory_mib"].items():
        console.print(f"resident MiB, {when}: {mib}")


if __name__ == "__main__":
    main()
