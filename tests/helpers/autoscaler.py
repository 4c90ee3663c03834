"""A Ray cluster whose autoscaler starts nodes (raylets) on this machine, and ends idle ones."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ray_head import end_head
from tracking_servers import free_port

MAPPINGS = ("auth", "docker", "head_node", "worker_nodes", "file_mounts")
LISTS = (
    "rsync_exclude",
    "rsync_filter",
    "cluster_synced_files",
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


@contextmanager
def growing_cluster(worker_cpus: int, max_workers: int) -> Iterator[str]:
    """Start a head without CPUs, on a port and in a folder of its own; yield its address.

    Args:
        worker_cpus: of a node that the autoscaler starts.
        max_workers: how many it may start.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # short: Ray's sockets lie in it
    address = f"127.0.0.1:{free_port()}"
    config = folder / "autoscaler.json"
    config.write_text(json.dumps(_config(address, worker_cpus, max_workers)))
    command = [
        *(Path(sys.executable).parent / "ray", "start", "--head", "--block", "--num-cpus=0"),
        *("--node-ip-address=127.0.0.1", f"--port={address.rpartition(':')[2]}"),
        *(f"--temp-dir={folder}", "--include-dashboard=false", "--disable-usage-stats"),
        f"--autoscaling-config={config}",
    ]
    log = (folder / "start.log").open("w+")
    process = subprocess.Popen(
        command,
        env={**os.environ, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        _wait_for(address, process, log.name)
        yield address
    finally:
        end_head(process)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _config(address: str, worker_cpus: int, max_workers: int) -> dict[str, object]:
    """What ``ray up`` makes of a cluster file, for Ray's provider of nodes on this machine."""
    provider = {
        "type": "fake_multinode",
        "gcs_address": address,
        "launch_multiple": True,
        "use_node_id_as_ip": True,  # nodes of one machine share its address
        "disable_node_updaters": True,
    }
    worker = {"CPU": worker_cpus}
    types = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": worker, "node_config": {}, "max_workers": max_workers},
    }
    return {
        "cluster_name": "growing",
        "max_workers": max_workers,
        "idle_timeout_minutes": 0.2,
        "provider": provider,
        "available_node_types": types,
        "head_node_type": "ray.head.default",
        **{name: {} for name in MAPPINGS},
        **{name: [] for name in LISTS},
        "file_mounts_sync_continuously": False,
    }


def _wait_for(address: str, process: subprocess.Popen[bytes], log: str) -> None:
    deadline = time.monotonic() + 120
    host, _, port = address.rpartition(":")
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError):
            socket.create_connection((host, int(port))).close()
            if "--block" in Path(log).read_text():
                return
        time.sleep(0.2)
    raise AssertionError(f"Ray's head did not start:\n{Path(log).read_text()}")
