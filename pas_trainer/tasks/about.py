"""What a task's data tell of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pas_trainer.data.batches import Split
from search_space import Architecture


class About(Protocol):
    """What a network needs to know of the images it is for."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of what it tells apart, in its order; empty if it does not."""
        ...

    @property
    def channels(self) -> int:
        """Channels of an image."""
        ...

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        ...


class Indexed(About, Protocol):
    """A data set that has been looked through, nothing decoded."""

    @property
    def train(self) -> Any:
        """What is trained on; has a length, as the other splits."""
        ...

    @property
    def validation(self) -> Any:
        """What trials are compared by."""
        ...

    @property
    def test(self) -> Any:
        """What is measured once, at the end."""
        ...

    @property
    def version(self) -> str:
        """Hash of the files' content where they came from a store; else empty."""
        ...

    def fingerprint(self) -> str:
        """Hash of what decides the splits' content."""
        ...


class TaskData(About, Protocol):
    """Three splits, ready to be read in batches, see :class:`pas_trainer.data.batches.Split`."""

    @property
    def train(self) -> Split:
        """What is trained on."""
        ...

    @property
    def validation(self) -> Split:
        """Held out of the training images."""
        ...

    @property
    def test(self) -> Split:
        """Measured once, at the end."""
        ...

    @property
    def mean(self) -> Sequence[float]:
        """Per channel, of images scaled to [0, 1]; what is subtracted."""
        ...

    @property
    def std(self) -> Sequence[float]:
        """Per channel; what is divided by."""
        ...


class AboutArchitecture:
    """What an architecture tells of its images, as :class:`About`."""

    def __init__(self, architecture: Architecture) -> None:
        self.classes = architecture.classes
        self.channels, self.image_size = architecture.in_channels, architecture.image_size
