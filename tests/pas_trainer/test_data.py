from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from pas_trainer import DataConfig, DataError, load_data, open_sources
from pas_trainer.data import _statistics
from pas_trainer.data.batches import DiskSplit, MemorySplit, Share, load_split
from pas_trainer.data.sources import decode


@pytest.fixture
def folder(tmp_path):
    """An ImageFolder of 2 classes, 20 training and 6 test images each, of odd sizes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 6)):
        for label, name in enumerate(("cat", "dog")):
            target = tmp_path / split / name
            target.mkdir(parents=True)
            for i in range(count):
                size = (12 + i % 3, 16)
                pixels = rng.integers(0, 100, (*size, 3), dtype=np.uint8) + 100 * label
                Image.fromarray(pixels.astype(np.uint8)).save(target / f"{i:03d}.png")
    return tmp_path


def config(folder, **changes) -> DataConfig:
    values = {"name": "imagefolder", "root": str(folder), "image_size": 8, "validation": 0.2}
    return DataConfig(**{**values, **changes})


def test_digits_are_those_of_scikit_learn():
    sources, reference = open_sources(DataConfig(name="digits", validation=0.2)), load_digits()
    splits = (sources.train, sources.validation, sources.test)
    found = [(bytes(i), n) for s in splits for i, n in zip(s.images, s.labels, strict=True)]
    pixels = (reference.images / 16 * 255).round().astype(np.uint8)
    assert sorted(found) == sorted(zip(map(bytes, pixels), reference.target, strict=True))


def test_digits_are_split_once_and_evenly():
    data = load_data(DataConfig(name="digits", validation=0.2))
    sizes = [len(s) for s in (data.train, data.validation, data.test)]
    assert sum(sizes) == 1797
    assert sizes[2] == 1797 // 5
    counts = torch.bincount(data.validation.labels)
    assert counts.max() - counts.min() <= 2
    assert data.classes == tuple("0123456789")
    assert (data.channels, data.image_size) == (1, 8)


def test_no_image_is_in_two_splits(folder):
    sources = open_sources(config(folder))
    train, validation, test = (
        set(s.images) for s in (sources.train, sources.validation, sources.test)
    )
    assert len(train | validation | test) == 52
    assert len(train) == 32
    assert len(validation) == 8
    assert Counter(sources.validation.labels) == {0: 4, 1: 4}


def test_the_split_depends_on_its_seed_alone(folder):
    first, again = (open_sources(config(folder)).validation.images for _ in range(2))
    other = open_sources(config(folder, split_seed=1)).validation.images
    assert first == again
    assert first != other


def test_subsets_keep_the_share_of_each_class(folder):
    sources = open_sources(config(folder, train_images=10, test_images=4))
    assert len(sources.train) + len(sources.validation) == 10
    assert Counter(sources.test.labels) == {0: 2, 1: 2}


def test_images_are_resized_and_cropped(folder):
    data = load_data(config(folder))
    assert isinstance(data.train, MemorySplit)
    assert data.train.images.shape == (32, 3, 8, 8)
    dark = data.train.images[data.train.labels == 0].float().mean()
    bright = data.train.images[data.train.labels == 1].float().mean()
    assert bright - dark > 60


def test_training_batches_repeat_for_the_same_seed(folder):
    split = load_data(config(folder)).train
    first, again, other = (list(split.train_batches(8, seed)) for seed in (1, 1, 2))
    assert len(first) == 4
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a[0], b[0]) for a, b in zip(first, other, strict=True))


def test_augmentation_shifts_and_mirrors():
    image = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    split = MemorySplit(image.repeat(64, 1, 1, 1), torch.zeros(64), padding=1, mirror=True)
    images = next(split.train_batches(64, seed=0))[0]
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
    mirrored = torch.nn.functional.pad(image.flip(3), (1, 1, 1, 1))
    allowed = [
        p[0, 0, y : y + 8, x : x + 8]
        for p in (padded, mirrored)
        for y in range(3)
        for x in range(3)
    ]
    for made in images:
        assert any(torch.equal(made[0], a) for a in allowed)
    assert len({tuple(made.flatten().tolist()) for made in images}) > 8


def test_images_beyond_memory_are_read_from_disk(folder):
    settings = config(folder, memory_gib=0.0, workers=0)
    sources = open_sources(settings)
    split = load_split(sources.train, sources, settings)
    assert isinstance(split, DiskSplit)
    batches = list(split.train_batches(8, seed=3))
    again = list(split.train_batches(8, seed=3))
    assert [b[0].shape for b in batches] == [(8, 3, 8, 8)] * 4
    assert batches[0][0].dtype == torch.uint8
    assert torch.equal(batches[0][1], again[0][1])
    assert sum(len(labels) for _, labels in split.eval_batches(10)) == 32
    for share in (Share(0, 2), Share(1, 2)):
        _, labels = next(split.train_batches(8, 3, share))
        assert torch.equal(labels, batches[0][1][share.items])
        assert sum(len(labels) for _, labels in split.eval_batches(10, share)) == 16
    parts = [list(split.eval_batches(31, Share(rank, 2))) for rank in (0, 1)]
    assert [len(part) for part in parts] == [2, 1]  # the last batch is a single image


@pytest.mark.parametrize("memory_gib", [1.0, 0.0])
def test_an_undecodable_image_is_named(folder, memory_gib):
    broken = folder / "train" / "dog" / "007.png"
    broken.write_bytes(b"not an image")
    settings = config(folder, memory_gib=memory_gib, workers=2, validation=0.05)

    def read_everything() -> None:
        data = load_data(settings)
        for split in (data.train, data.validation):
            list(split.eval_batches(64))

    with pytest.raises(DataError) as caught:
        read_everything()
    assert str(broken) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_jpeg_is_named(tmp_path):
    path = tmp_path / "x.jpg"
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"x\.jpg"):
        decode(path)


def test_formats_are_those_that_suffixes_promise(tmp_path):
    """Pillow reads more, some of them by starting other programs, and looks at no suffix."""
    image = Image.fromarray(np.zeros((4, 4), np.uint8))
    image.save(tmp_path / "x.png", "gif")
    with pytest.raises(DataError, match=r"x\.png"):
        decode(tmp_path / "x.png")
    image.save(tmp_path / "x.png", "jpeg")
    assert decode(tmp_path / "x.png").size == (4, 4)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        open_sources(config(tmp_path / "nowhere"))


def test_a_class_without_images_is_named(folder):
    (folder / "train" / "emu").mkdir()
    with pytest.raises(DataError, match="emu has no images"):
        open_sources(config(folder))


def test_test_classes_must_match(folder):
    (folder / "test" / "dog").rename(folder / "test" / "wolf")
    with pytest.raises(DataError, match=r"dog.*wolf"):
        open_sources(config(folder))


def test_val_stands_in_for_a_missing_test_folder(folder):
    (folder / "test").rename(folder / "val")
    assert len(open_sources(config(folder)).test) == 12


def test_cifar10_files_are_read_by_torchvision(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    base = tmp_path / CIFAR10.base_folder
    base.mkdir()
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for name in names:
        rows = np.random.default_rng(1).integers(0, 255, (20, 3072), dtype=np.uint8)
        content = {"data": rows, "labels": list(range(10)) * 2}
        (base / name).write_bytes(pickle.dumps(content))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda _self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    sources = open_sources(DataConfig(name="cifar10", root=str(tmp_path)))
    assert len(sources.train) + len(sources.validation) == 100
    assert sources.classes == tuple("abcdefghij")
    assert load_split(sources.train, sources, DataConfig(name="digits")).images.shape[1:] == (
        3,
        32,
        32,
    )


def test_missing_cifar10_files_are_told(tmp_path):
    with pytest.raises(DataError, match="cifar-10-python"):
        open_sources(DataConfig(name="cifar10", root=str(tmp_path)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "mnist"},
        {"image_size": None},
        {"root": None},
        {"image_size": 4},
        {"validation": 0.0},
        {"train_images": 0},
        {"memory_gib": -1},
        {"workers": -1},
    ],
)
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        config("x", **wrong)


def test_the_fingerprint_follows_the_files(folder):
    before = open_sources(config(folder)).fingerprint()
    assert open_sources(config(folder)).fingerprint() == before
    Image.new("RGB", (9, 9)).save(folder / "train" / "dog" / "900.png")
    assert open_sources(config(folder)).fingerprint() != before


def rare_class(tmp_path):
    """Two classes of 60 training images and a rare one of 3; 20 and 3 test images."""
    for split, counts in (("train", (60, 60, 3)), ("test", (20, 20, 3))):
        for name, count in zip(("a", "b", "rare"), counts, strict=True):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / split / name / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize(
    "changes", [{"train_images": 12}, {"validation": 0.9}, {"test_images": 6}, {}]
)
def test_no_class_is_lost_where_images_are_few(tmp_path, changes):
    sources = open_sources(config(rare_class(tmp_path), **changes))
    for split in (sources.train, sources.validation, sources.test):
        assert len(set(split.labels)) == min(3, len(split))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_images_of_sixteen_bits_keep_their_brightness(tmp_path, suffix):
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"x.{suffix}")
    read = np.asarray(decode(tmp_path / f"x.{suffix}", 1))
    assert read.tolist() == [[0, 1, 128, 255]]


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_images_whose_white_is_not_known_are_refused(tmp_path, kind):
    Image.fromarray(np.ones((4, 4), dtype=kind)).save(tmp_path / "x.tiff")
    with pytest.raises(DataError, match=r"cannot decode image .*x\.tiff \(mode [FI]: .*8 bits"):
        decode(tmp_path / "x.tiff")


def test_images_too_large_to_be_true_are_refused(tmp_path, monkeypatch):
    Image.new("L", (64, 64)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"cannot decode image .*DecompressionBomb"):
        decode(tmp_path / "x.png")


def test_hidden_files_and_folders_are_none_of_the_data(folder):
    before = open_sources(config(folder))
    (folder / "train" / "cat" / "._000.png").write_bytes(b"no image")
    for split in ("train", "test"):
        (folder / split / ".ipynb_checkpoints").mkdir()
        (folder / split / "cat" / "folder.png").mkdir()
        below = folder / split / "cat" / "more" / ".ipynb_checkpoints"
        below.mkdir(parents=True)
        (below / "1-checkpoint.png").write_bytes(b"no image")
    after = open_sources(config(folder))
    assert (after.classes, after.train.images) == (before.classes, before.train.images)


def test_statistics_are_those_of_the_pixels():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 200, (600, 3, 4, 5), dtype=torch.uint8, generator=generator)
    images[:, 1] //= 2
    mean, std = _statistics(MemorySplit(images, torch.zeros(600), padding=1, mirror=False))
    pixels = images.double() / 255
    assert mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist(), abs=1e-4)
    assert std == pytest.approx(pixels.std(dim=(0, 2, 3)).tolist(), abs=1e-4)


def test_a_worker_without_a_share_of_the_last_batch_is_given_none():
    split = MemorySplit(torch.zeros(9, 1, 4, 4), torch.arange(9), padding=0, mirror=False)
    shares = [list(split.eval_batches(4, Share(rank, 2))) for rank in range(2)]
    assert [[len(labels) for _, labels in batches] for batches in shares] == [[2, 2, 1], [2, 2]]
    labels = torch.cat([labels for batches in shares for _, labels in batches])
    assert sorted(labels.tolist()) == list(range(9))
