from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from deploy import ParityError, check_parity


def test_equal_forms_pass_and_keep_their_mode(
    training_network: nn.Module, deploy_network: nn.Module, images: Tensor
) -> None:
    training_network.train()
    training_network.stages[1].eval()
    flags = [module.training for module in training_network.modules()]
    statistics = copy.deepcopy(training_network.state_dict())
    error = check_parity(training_network, deploy_network, images)
    assert 0.0 <= error < 1e-5
    assert [module.training for module in training_network.modules()] == flags
    after = training_network.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in statistics.items())


@pytest.mark.parametrize(("logit", "expected"), [(0.5, 0.25), (100.0, 0.0025)])
def test_error_is_relative_to_the_largest_logit_or_one(logit: float, expected: float) -> None:
    reference = nn.Flatten()
    shifted = nn.Sequential(nn.Flatten(), nn.Linear(1, 1))
    nn.init.ones_(shifted[1].weight)  # type: ignore[arg-type]
    nn.init.constant_(shifted[1].bias, 0.25)  # type: ignore[arg-type]
    images = torch.full((3, 1, 1, 1), -logit)
    assert check_parity(reference, shifted, images, tolerance=1.0) == pytest.approx(expected)
    with pytest.raises(ParityError, match="the two forms differ"):
        check_parity(reference, shifted, images, tolerance=expected * 0.99)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_not_a_number_never_passes(broken: float) -> None:
    images = torch.full((2, 1, 1, 1), broken)
    with pytest.raises(ParityError):
        check_parity(nn.Flatten(), nn.Flatten(), images, tolerance=float("inf"))


def test_different_shapes_and_no_images(images: Tensor) -> None:
    with pytest.raises(ParityError, match="shapes"):
        check_parity(nn.Flatten(), nn.Flatten(2), images)
    with pytest.raises(ValueError, match="without images"):
        check_parity(nn.Flatten(), nn.Flatten(), images[:0])
