from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from exported import CLASSES, digits, fake_export, small_package
from PIL import Image

from deploy import PackageError, load_architecture
from deploy.manifest import ManifestError
from deploy.prediction import (
    Classifier,
    classifier_of_folder,
    classifier_of_package,
    image_files,
    resize_of_architecture,
)
from pas_trainer import DataError


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return small_package(tmp_path_factory.mktemp("prediction") / "package")


@pytest.fixture
def files(tmp_path):
    """Digits as image files, and their pixels."""
    pixels = digits()[0][:7]
    paths = [tmp_path / f"{i}.png" for i in range(len(pixels))]
    for image, path in zip(pixels, paths, strict=True):
        Image.fromarray(image[0].numpy()).save(path)
    return paths, pixels


def refuse(error: DataError) -> None:
    raise error


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_files_are_classified_as_the_network_classifies_their_pixels(package, files, batch_size):
    classifier = classifier_of_package(package)
    paths, pixels = files
    with torch.inference_mode():
        expected = classifier.form(pixels.float() / 255).double().softmax(dim=1)
    found = list(classifier.classify(paths, batch_size=batch_size, unreadable=refuse))
    assert [one.path for one in found] == paths
    assert [one.label for one in found] == [CLASSES[i] for i in expected.argmax(dim=1)]
    assert [one.probability for one in found] == pytest.approx(expected.amax(dim=1).tolist())


def test_the_likeliest_classes_come_first_and_there_are_no_more_than_all(package, files) -> None:
    paths, _ = files
    found = list(classifier_of_package(package).classify(paths[:2], top=99, unreadable=refuse))
    assert [one.path for one in found] == [paths[0]] * 10 + [paths[1]] * 10
    assert {one.label for one in found[:10]} == set(CLASSES)
    values = [one.probability for one in found[:10]]
    assert values == sorted(values, reverse=True)
    assert math.fsum(values) == pytest.approx(1)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_image_that_cannot_be_read_is_told_and_the_others_go_on(package, files, batch_size):
    paths, _ = files
    paths[1].write_bytes(b"no image")
    paths[4].write_bytes(paths[5].read_bytes()[:40])
    told: list[str] = []
    found = classifier_of_package(package).classify(
        paths, batch_size=batch_size, unreadable=lambda error: told.append(str(error))
    )
    assert [one.path for one in found] == [paths[i] for i in (0, 2, 3, 5, 6)]
    assert len(told) == 2
    assert all(path.name in line for path, line in zip((paths[1], paths[4]), told, strict=True))


def test_images_go_the_way_that_the_network_was_evaluated_by(package, tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    seen = {}
    for resize in ("whole", "centre"):

        def form(images, resize=resize):
            seen[resize] = images
            return images.flatten(1)[:, :10]

        architecture = load_architecture(package)
        classifier = Classifier(architecture=architecture, resize=resize, form=form)
        list(classifier.classify([tmp_path / "large.png"], unreadable=refuse))
        assert seen[resize].shape == (1, 1, 8, 8)
    assert not torch.equal(seen["whole"], seen["centre"])


def test_statistics_of_imagenet_mean_that_images_were_read_from_disk(package) -> None:
    ours = load_architecture(package)
    assert resize_of_architecture(ours) == "whole"
    theirs = dataclasses.replace(
        ours, in_channels=3, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
    )
    assert resize_of_architecture(theirs) == "centre"


def test_images_are_found_below_folders_in_order(tmp_path) -> None:
    for name in ("b/2.JPG", "a/1.png", "a/deeper/0.webp", "a/._1.png", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    names = [tmp_path / name for name in ("a/1.png", "a/deeper/0.webp", "b/2.JPG")]
    assert image_files([tmp_path]) == names
    assert image_files([tmp_path / "b/2.JPG", tmp_path]) == [names[2], *names[:2]]
    assert image_files([tmp_path / "a/notes.txt"]) == [tmp_path / "a/notes.txt"]
    with pytest.raises(DataError, match="nowhere does not exist"):
        image_files([tmp_path, tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no images \(\.bmp, "):
        image_files([tmp_path / "empty"])


def test_a_folder_is_verified_before_it_is_used(tmp_path) -> None:
    fake_export(tmp_path / "export")
    with pytest.raises(PackageError, match=r"holds no model\.onnx"):
        classifier_of_folder(tmp_path / "export", "onnx")
    (tmp_path / "export" / "a.bin").write_bytes(b"")
    for engine in ("torch", "onnx"):
        with pytest.raises(ManifestError, match=r"a\.bin"):
            classifier_of_folder(tmp_path / "export", engine)
