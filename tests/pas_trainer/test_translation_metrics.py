from __future__ import annotations

import itertools
import math
import statistics

import pytest
import torch
from torch import nn

from pas_trainer.translation_metrics import PSNR_CAP_DB, ImageQuality, KernelDistance


def quality(*pairs) -> dict[str, float]:
    metric = ImageQuality()
    for outputs, targets in pairs:
        metric.update(outputs, targets)
    return metric.compute()


def images(count: int, seed: int = 0, size: int = 16):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, size, size, generator=generator)


def test_an_image_equals_itself():
    assert quality((images(3), images(3))) == {"psnr_db": PSNR_CAP_DB, "ssim": pytest.approx(1)}


@pytest.mark.parametrize("error", [0.5, 0.1, 0.01])
def test_noise_of_a_constant_error(error):
    targets = images(2) * 0.4
    found = quality((targets + error, targets))
    assert found["psnr_db"] == pytest.approx(-20 * math.log10(error), abs=1e-5)


def test_similarity_of_constant_images():
    # Without variance only the term of the means is left (Wang et al., 2004, equation 13).
    a, b, c1 = 0.3, 0.6, 0.01**2
    found = quality((torch.full((1, 3, 16, 16), a), torch.full((1, 3, 16, 16), b)))
    assert found["ssim"] == pytest.approx((2 * a * b + c1) / (a**2 + b**2 + c1), abs=1e-9)


def test_images_count_alike_whatever_their_batch():
    targets = images(3) * 0.5
    outputs = targets + torch.tensor([0.1, 0.2, 0.4])[:, None, None, None]
    together = quality((outputs, targets))
    apart = quality((outputs[:1], targets[:1]), (outputs[1:], targets[1:]))
    assert together == pytest.approx(apart)
    each = [-20 * math.log10(error) for error in (0.1, 0.2, 0.4)]
    assert together["psnr_db"] == pytest.approx(statistics.mean(each), abs=1e-5)


def test_outputs_are_cut_off_as_they_are_when_shown():
    white = torch.ones(1, 3, 16, 16)
    assert quality((white * 1.5, white))["psnr_db"] == PSNR_CAP_DB


def test_no_image_is_told():
    with pytest.raises(ValueError, match="no image has been compared"):
        ImageQuality().compute()


def distance(outputs, targets) -> float:
    metric = KernelDistance(nn.AvgPool2d(8))
    for i in range(0, len(outputs), 4):
        metric.update(outputs[i : i + 4], targets[i : i + 4])
    return metric.compute()["kid"]


def brute_force(outputs, targets) -> float:
    """The unbiased estimate of Gretton et al. (2012), pair by pair."""
    x, y = ([nn.AvgPool2d(8)(each).flatten().double() for each in s] for s in (outputs, targets))

    def kernel(a, b) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    within = sum(
        statistics.mean(kernel(a, b) for a, b in itertools.permutations(part, 2)) for part in (x, y)
    )
    return within - 2 * statistics.mean(kernel(a, b) for a in x for b in y)


def test_kernel_distance_is_that_of_its_definition():
    first, second = images(8), images(8, seed=1) * 0.5
    assert distance(first, second) == pytest.approx(brute_force(first, second), rel=1e-6)


def test_kernel_distance_tells_sets_apart():
    first, alike, other = images(16), images(16, seed=1), images(16, seed=2) * 0.5
    assert abs(distance(first, alike)) < 0.01 < distance(first, other)


def test_kernel_distance_of_subsets_repeats_and_leaves_random_numbers_alone(monkeypatch):
    monkeypatch.setattr(KernelDistance, "_SUBSET_SIZE", 4)
    monkeypatch.setattr(KernelDistance, "_SUBSETS", 50)
    first, second = images(12), images(12, seed=1) * 0.5
    state = torch.get_rng_state()
    found = [distance(first, second) for _ in range(2)]
    assert found[0] == found[1] == pytest.approx(brute_force(first, second), rel=0.2)
    assert torch.equal(state, torch.get_rng_state())


def test_a_single_image_has_no_distance():
    with pytest.raises(ValueError, match="1 images in a set"):
        distance(images(1), images(1))


def test_targets_that_come_again_count_once():
    outputs, targets = images(8), images(4, seed=1) * 0.5
    once = KernelDistance(nn.AvgPool2d(8))
    once.update(outputs, targets)
    again = torch.cat([targets, targets])
    assert distance(outputs, again) == once.compute()["kid"]
    assert distance(outputs, again) == pytest.approx(brute_force(outputs, targets), rel=0.1)
