"""``pas serve`` as a user runs it: a promoted model, the next one, and a clean end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
import torch
from serving import file_of
from tracking_servers import free_port

from deploy import deployed_network, load_package
from pas_trainer import DataConfig, open_sources

pytestmark = pytest.mark.slow

PNG = {"Content-Type": "image/png", "Authorization": "Bearer a-token"}


@dataclass
class Client(threading.Thread):
    """Sends images without a pause, and counts how they were answered and by which version."""

    url: str
    images: list[bytes]
    statuses: Counter = field(default_factory=Counter)
    labels: dict[int, dict[int, str]] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        with requests.Session() as session:
            number = 0
            while not self.ended.is_set():
                number = (number + 1) % len(self.images)
                try:
                    answer = session.post(
                        f"{self.url}/predict", data=self.images[number], headers=PNG, timeout=60
                    )
                except requests.RequestException as error:
                    self.statuses[type(error).__name__] += 1
                    continue
                self.statuses[answer.status_code] += 1
                if answer.ok:
                    found = answer.json()
                    label = found["predictions"][0]["label"]
                    self.labels.setdefault(found["version"], {})[number] = label


@pytest.fixture(scope="module")
def pas(tmp_path_factory, make_pas):
    """A finished sweep of two trials; the weights of both are kept, on the front or not."""
    pas = make_pas(tmp_path_factory.mktemp("serving"))
    pas.python = sys.executable
    options = ("--set", "trials_per_cell=1", "--set", "storage.keep=all")
    done = pas.here("sweep", str(pas.file), *options)
    assert done.returncode == 0, done.stderr
    return pas


@contextlib.contextmanager
def served(pas, *arguments: str):
    """Run ``pas serve`` until the end of what is inside; give its process and what it said."""
    process = subprocess.Popen(
        pas.command("serve", *arguments, "--json"),
        env={**pas.environment, "PAS_SERVE_TOKEN": "a-token"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "}\n":
                break
        assert lines, process.stderr.read()
        yield process, json.loads("".join(lines))
    finally:
        process.terminate()
        process.communicate(timeout=120)


def wait_for(what, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def promote(pas, trial_id: str):
    options = ("--trial", trial_id, "--model", "served", "--tolerance", "1")
    return pas.json("promote", "tiny", *options)


def predicted(pas, promoted, images) -> list[str]:
    """Classes of images by the trial's own network."""
    trial = promoted["trial"]
    folder = pas.home / "sweeps" / trial["sweep_id"] / "trials" / trial["trial_id"]
    architecture, network = load_package(folder)
    classifier = deployed_network(architecture, network)
    with torch.inference_mode():
        found = classifier(torch.from_numpy(images)[:, None].float() / 255).argmax(dim=1)
    return [architecture.classes[i] for i in found]


def test_a_champion_is_served_then_the_next_and_no_request_fails(pas) -> None:
    test = open_sources(DataConfig(name="digits", validation=0.25)).test
    pixels = np.stack([np.asarray(image)[..., 0] for image in test.images[:40]])
    first = promote(pas, "b0.5-s10-0")
    port = free_port()
    options = ("--port", str(port), "--poll", "0.5", "--replicas", "2")
    with served(pas, "served", *options) as (process, said):
        assert (said["model"], said["version"], said["engine"]) == ("served", 1, "onnx")
        assert said["url"] == f"http://127.0.0.1:{port}"
        assert requests.get(f"{said['url']}/ready", timeout=30).ok
        assert requests.get(f"{said['url']}/model", timeout=30).status_code == 401
        family = [process.pid, *(p.pid for p in psutil.Process(process.pid).children(True))]
        listening = [c for pid in family for c in sockets_of(pid) if c.status == "LISTEN"]
        assert port in {c.laddr.port for c in listening}
        assert {c.laddr.ip for c in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}

        client = Client(said["url"], [file_of(image) for image in pixels])
        client.start()
        wait_for(lambda: len(client.labels.get(1, {})) == len(pixels))
        second = promote(pas, "b0.25-s10-0")
        assert second["version"] == 2
        wait_for(lambda: len(client.labels.get(2, {})) == len(pixels))
        client.ended.set()
        client.join()
        assert set(client.statuses) == {200}
        for version, promoted in ((1, first), (2, second)):
            labels = [client.labels[version][number] for number in range(len(pixels))]
            assert labels == predicted(pas, promoted, pixels)

        told = requests.get(f"{said['url']}/metrics", headers=PNG, timeout=30).text.splitlines()
        assert 'pas_serve_model_version{model="served"} 2.0' in told
        counted = 'pas_serve_requests_total{path="/predict",status="200"} '
        (line,) = [line for line in told if line.startswith(counted)]
        assert float(line.removeprefix(counted)) == client.statuses[200]
        (classified,) = [line for line in told if line.startswith("pas_serve_batch_images_sum ")]
        assert float(classified.split()[1]) == client.statuses[200]

        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0
        assert "Traceback" not in errors
        assert "a-token" not in errors
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in family))
    assert not list(pas.home.glob("serving-*"))
    with socket.create_server(("127.0.0.1", port)):
        pass


def sockets_of(pid: int):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).net_connections("inet")
    return []


def test_mlflow_serves_a_version_by_itself(pas) -> None:
    trial = promote(pas, "b0.5-s10-0")
    pixels = np.asarray(open_sources(DataConfig(name="digits")).test.images[:5])
    port = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"),
            *("-m", f"models:/served/{trial['version']}"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": f"sqlite:///{pas.home / 'mlflow.db'}",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{url}/ping", timeout=30).ok
        assert process.poll() is None
        return False

    try:
        wait_for(answers)
        inputs = (pixels.transpose(0, 3, 1, 2) / 255).tolist()
        answer = requests.post(f"{url}/invocations", json={"inputs": inputs}, timeout=60)
        found = np.asarray(answer.json()["predictions"]).argmax(axis=1)
        assert [str(i) for i in found] == predicted(pas, trial, pixels[..., 0])
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
