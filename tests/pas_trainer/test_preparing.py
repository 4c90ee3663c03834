"""Files are prepared one by one exactly as an evaluation reads them, in memory or from disk."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pas_trainer import DataConfig, DataError, open_sources, prepare_image, prepare_images
from pas_trainer.data import resize_of
from pas_trainer.data.batches import DiskSplit, MemorySplit, load_split

SIZES = [(40, 30), (17, 33), (16, 16), (9, 12), (64, 64)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            (folder / split / label).mkdir(parents=True)
            for i, (width, height) in enumerate(SIZES):
                pixels = draw.integers(0, 256, (height, width, 3), np.uint8)
                kind = "jpg" if i % 2 else "png"
                Image.fromarray(pixels).save(folder / split / label / f"{i}.{kind}")
    return folder


@pytest.mark.parametrize(
    ("memory_gib", "kind", "way"),
    [
        (1.0, MemorySplit, "whole"),
        (0.0, DiskSplit, "centre"),
        (9000 / 2**30, MemorySplit, "centre"),  # too little for the training images alone
    ],
)
def test_prepared_files_are_what_evaluation_sees(root, memory_gib, kind, way) -> None:
    config = DataConfig(
        name="imagefolder", root=str(root), image_size=16, memory_gib=memory_gib, workers=0
    )
    sources = open_sources(config)
    split = load_split(sources.test, sources, config)
    assert isinstance(split, kind)
    expected = torch.cat([images for images, _ in split.eval_batches(3)])
    resize = resize_of(sources, config)
    assert resize == way
    assert isinstance(load_split(sources.train, sources, config, augment=True), DiskSplit) == (
        way == "centre"
    )
    assert torch.equal(prepare_images(sources.test.images, 16, 3, resize), expected)


def test_the_two_ways_differ(root) -> None:
    image = root / "test" / "cat" / "0.png"
    both = [prepare_image(image, 16, 3, resize) for resize in ("whole", "centre")]
    assert not np.array_equal(*both)


@pytest.mark.parametrize("resize", ["whole", "centre"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_and_their_file_are_prepared_alike(tmp_path, resize, channels) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (12, 15, channels), np.uint8)
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(tmp_path / "a.png")
    both = [prepare_image(i, 8, channels, resize) for i in (pixels, tmp_path / "a.png")]
    assert both[0].shape == (8, 8, channels)
    assert np.array_equal(*both)


def test_a_file_that_is_no_image_is_named(tmp_path) -> None:
    (tmp_path / "bad.png").write_text("no image")
    with pytest.raises(DataError, match=r"bad\.png"):
        prepare_images([tmp_path / "bad.png"], 8, 3, "centre")
