"""Image files with what a network makes of them, for tasks whose answers are pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from deploy.package import PackageError, load_package
from pas_trainer import DataError, task_of
from pas_trainer.data.sources import decode
from search_space import Architecture


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """What became of one image.

    Attributes:
        path: of the image.
        picture: where the answer was drawn.
        found: it in figures, as plain values.
    """

    path: Path
    picture: Path
    found: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawer:
    """A network whose answers are drawn."""

    architecture: Architecture
    network: nn.Module

    def draw(
        self, paths: Sequence[Path], out: Path, *, unreadable: Callable[[DataError], None]
    ) -> Iterator[Drawn]:
        """Write a PNG file per image and yield what it shows, in order.

        Args:
            paths: image files.
            out: folder, created if missing; pictures are named after images, numbered where two
                have the same name, or the folder has images of its own.
            unreadable: told of each image that cannot be decoded; the others go on.
        """
        task = task_of(self.architecture)
        out.mkdir(parents=True, exist_ok=True)
        holds_images = out.resolve() in {path.resolve().parent for path in paths}
        taken = {path.stem for path in out.glob("*.png")} if holds_images else set()
        for path in paths:
            try:
                image = decode(path)
            except DataError as error:
                unreadable(error)
                continue
            with torch.inference_mode():
                pixels, found = task.draw(self.network, image, self.architecture)
            picture = out / f"{_free_name(path.stem, taken)}.png"
            Image.fromarray(pixels).save(picture)
            yield Drawn(path=path, picture=picture, found=found)


def drawer_of_package(folder: Path, *, allow_import: bool = False) -> Drawer:
    """Return the network of a package, rebuilt from its weights.

    Raises:
        PackageError: the package is unusable, or its task draws nothing.
    """
    architecture, network = load_package(folder, allow_import=allow_import)
    if not task_of(architecture).draws_answers:
        raise PackageError(
            f"task {architecture.task} draws no pictures of its networks' answers (Task.draw)"
        )
    return Drawer(architecture=architecture, network=network)


def _free_name(stem: str, taken: set[str]) -> str:
    """Return a name that is not taken yet, and take it."""
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name)
    return name
