"""Users of Locust: each sends one image after the other, without a pause."""

import os
from pathlib import Path

from locust import FastHttpUser, constant, task

IMAGES = [path.read_bytes() for path in sorted(Path(os.environ["PAS_BENCH_IMAGES"]).iterdir())]


class Client(FastHttpUser):  # type: ignore[misc]
    """One user."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Begin anywhere, lest all send the same image."""
        self._next = id(self)

    @task  # type: ignore[untyped-decorator]
    def predict(self) -> None:
        """Send the next image."""
        self._next += 1
        image = IMAGES[self._next % len(IMAGES)]
        self.client.post("/predict?top=1", data=image, headers={"Content-Type": "image/png"})
