"""Tiny data sets in published layouts, written as files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def write_penn_fudan(root: Path, count: int = 17) -> Path:
    """Write images of odd sizes, from 20x31 on, the i-th with i % 3 objects, in columns."""
    rng = np.random.default_rng(0)
    for i in range(count):
        height, width = 20 + i % 4, 31 - i % 2
        numbers = np.zeros((height, width))
        for number in range(1, i % 3 + 1):
            numbers[4 : 10 + number, 10 * number - 6 : 10 * number] = number
        save(root / "PNGImages" / f"P{i:03d}.png", rng.integers(0, 255, (height, width, 3)))
        save(root / "PedMasks" / f"P{i:03d}_mask.png", numbers)
    return root


POLYGON = [[2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0]]  # columns 2 to 11, rows 3 to 8


def coco_content(count: int) -> dict:
    """Annotate images of 20x30 pixels: none on the first, a polygon and run lengths on others."""
    images = [
        {"id": 7 * i, "file_name": f"{i}.png", "height": 20, "width": 30} for i in range(count)
    ]
    annotations = []
    for i in range(1, count):
        # Run lengths go down the columns: rows 5 to 14 of columns 20 and 21.
        runs = {"size": [20, 30], "counts": [405, 10, 10, 10, 165]}
        for category, outline, box in (
            (18, POLYGON, [2, 3, 10, 6]),
            (3, runs, [20, 5, 2, 10]),
        ):
            number = len(annotations) + 1
            found = {"id": number, "image_id": 7 * i, "category_id": category, "iscrowd": 0}
            annotations.append({**found, "segmentation": outline, "bbox": box, "area": 1.0})
    categories = [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(root: Path, year: str = "2017", counts: tuple[int, int] = (8, 3)) -> Path:
    (root / "annotations").mkdir(parents=True)
    for name, count in zip(("train", "val"), counts, strict=True):
        file = root / "annotations" / f"instances_{name}{year}.json"
        file.write_text(json.dumps(coco_content(count)))
        for i in range(count):
            save(root / f"{name}{year}" / f"{i}.png", np.full((20, 30, 3), 10 * i))
    return root


def write_pairs(root: Path, **counts: int) -> Path:
    """Write pairs of 24x24 halves: noise, and on the right 255 minus it."""
    rng = np.random.default_rng(1)
    for name, count in counts.items():
        for i in range(count):
            left = rng.integers(0, 255, (24, 24, 3))
            save(root / name / f"{i}.png", np.concatenate([left, 255 - left], axis=1))
    return root


def write_domains(root: Path, *, grain: int = 0, **counts: int) -> Path:
    """Write images of a single grey each: the i-th of A is 10 i, of B 10 i + 5.

    With ``grain`` pixels are brighter by up to that. What instance norm makes of a single grey is
    rounding, made large.
    """
    rng = np.random.default_rng(2)
    for name, count in counts.items():
        for i in range(count):
            grey = 10 * i + 5 * name.endswith("B")
            save(root / name / f"{i:02d}.png", grey + rng.integers(0, grain + 1, (16, 20, 3)))
    return root
