"""A sweep on a cluster, each part of which can be killed while it runs."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from processes import trial_workers
from ray.cluster_utils import Cluster


class Stage:
    """A sweep's driver, the nodes it runs on and the servers it uses.

    Args:
        pas: command line with a home folder.
        cluster: its last node may be killed, the head stays.
        options: of ``pas sweep``.
        servers: by name; each has ``start()`` and ``kill()``.
        outage_s: how long a killed server is away.
        seed: of the moments.

    Attributes:
        log: what the drivers wrote to stderr.
        done: the faults so far.
    """

    def __init__(
        self,
        pas: Any,
        cluster: Cluster,
        options: Sequence[str],
        servers: dict[str, Any],
        outage_s: float,
        seed: int,
    ) -> None:
        self._pas, self._cluster, self._options = pas, cluster, list(options)
        self._servers, self._outage_s = servers, outage_s
        self._random = random.Random(seed)
        self._returning: list[threading.Thread] = []
        self._results: dict[Path, int] = {}
        self._node = cluster.add_node(num_cpus=1)
        self.log = pas.file.parent / "drivers.log"
        self.done: list[str] = []
        self._start_driver()

    def survive(self, faults: Sequence[str], mean_s: float, timeout_s: float) -> None:
        """Let the faults happen, at random moments, and the sweep end in spite of them."""
        end = time.monotonic() + timeout_s
        for fault in faults:
            moment = time.monotonic() + self._random.uniform(0, 2 * mean_s)
            self._run_until(lambda moment=moment: time.monotonic() > moment, end)
            getattr(self, f"_kill_{fault}", self._kill_server(fault))()
            self.done.append(fault)
        for thread in self._returning:
            thread.join()
        self._run_until(lambda: False, end)

    def _run_until(self, condition: Callable[[], bool], end: float) -> None:
        """Go on until the condition holds or the sweep is finished, with a driver throughout."""
        while not condition():
            assert time.monotonic() < end, self.log.read_text()[-5000:]
            self._check_results()
            code = self._driver.poll()
            if code == 0:
                return
            if code is not None:  # a server was away when it started or ended
                assert code == 2, self.log.read_text()[-5000:]
                time.sleep(1)
                self._start_driver()
            time.sleep(0.1)

    def _check_results(self) -> None:
        """No result is ever written twice."""
        for path in self._pas.home.glob("sweeps/*/trials/*/result.json"):
            written = path.stat().st_mtime_ns
            assert self._results.setdefault(path, written) == written, path

    def _start_driver(self) -> None:
        with self.log.open("a") as log:
            self._driver = subprocess.Popen(
                self._pas.command("sweep", str(self._pas.file), *self._options),
                env=self._pas.environment,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def _kill_driver(self) -> None:
        self._driver.kill()
        self._driver.wait()
        self._start_driver()

    def _kill_worker(self) -> None:
        end = time.monotonic() + 60
        while not (workers := trial_workers(os.getpid())):
            if self._driver.poll() is not None or time.monotonic() > end:
                return
            time.sleep(0.05)
        os.kill(self._random.choice(sorted(workers)), signal.SIGKILL)

    def _kill_node(self) -> None:
        self._cluster.remove_node(self._node, allow_graceful=False)
        self._node = self._cluster.add_node(num_cpus=1)

    def _kill_server(self, name: str) -> Callable[[], None]:
        def kill() -> None:
            server = self._servers[name]
            server.kill()
            thread = threading.Thread(target=self._return, args=[server])
            thread.start()
            self._returning.append(thread)

        return kill

    def _return(self, server: Any) -> None:
        time.sleep(self._outage_s)
        server.start()

    def close(self) -> None:
        """End what still runs."""
        self._driver.kill()
        self._driver.wait()
        for thread in self._returning:
            thread.join()
