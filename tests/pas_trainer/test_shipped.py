"""Networks as they leave training, and the judge of classifiers, against their definitions."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pas_trainer import Classification, largest_error, relative_error
from pas_trainer.tasks import ImageTranslation

CPU = torch.device("cpu")
IMAGES = SimpleNamespace(mean=[0.5, 0.25, 0.0], std=[0.5, 0.25, 1.0])


def test_normalisation_is_inside():
    network = Classification().shipped(nn.Flatten(), IMAGES)
    images = torch.rand(2, 3, 4, 5)
    for channel, (mean, std) in enumerate(zip(IMAGES.mean, IMAGES.std, strict=True)):
        found = network(images).unflatten(1, (3, 4, 5))[:, channel]
        assert torch.allclose(found, (images[:, channel] - mean) / std)


def test_a_generators_pictures_are_in_the_same_range_as_its_images():
    """A generator that changes nothing gives the images back; what leaves the range is cut off."""
    images = torch.rand(2, 3, 4, 5)
    same = ImageTranslation().shipped(nn.Identity(), IMAGES)
    assert torch.allclose(same(images), images, atol=1e-6)

    class Twice(nn.Module):
        def forward(self, x):
            return 2 * x

    twice = ImageTranslation().shipped(Twice(), IMAGES)
    mean = torch.tensor(IMAGES.mean).view(-1, 1, 1)
    expected = (2 * images - mean).clamp(0, 1)
    assert torch.allclose(twice(images), expected, atol=1e-6)


def test_accuracy_is_counted_over_all_batches():
    judge = Classification().judge(SimpleNamespace(), CPU)
    labels = torch.arange(10) % 3
    logits = nn.functional.one_hot(labels, 3).float()
    wrong = labels.clone()
    wrong[:4] = (wrong[:4] + 1) % 3
    judge.update(logits[:7], wrong[:7])
    judge.update(SimpleNamespace(logits=logits[7:]), wrong[7:])
    assert judge.compute() == {"accuracy": 0.6}


@pytest.mark.parametrize(("scale", "error"), [(0.5, 0.1), (20.0, 0.005)])
def test_errors_are_relative_to_the_largest_value_or_one(scale, error):
    expected = torch.tensor([0.0, -scale])
    assert relative_error(expected, expected + 0.1) == pytest.approx(error, rel=1e-4)
    assert math.isnan(relative_error(expected, torch.full((2,), float("nan"))))


def test_the_largest_error_is_the_one_that_is_not_a_number():
    nan = float("nan")
    assert largest_error([]) == 0.0
    assert largest_error(error for error in (0.1, 0.3, 0.2)) == 0.3
    assert largest_error([0.1, math.inf]) == math.inf
    assert all(
        math.isnan(largest_error(e)) for e in ([nan, math.inf], [math.inf, nan], [1, nan, 0])
    )
