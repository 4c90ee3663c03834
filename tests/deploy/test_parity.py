from __future__ import annotations

import pytest
import torch
from torch import nn

from deploy import ParityError
from deploy.parity import compare_answers
from pas_trainer import relative_error


@pytest.mark.parametrize(("largest", "allowed"), [(0.5, 1e-4), (100.0, 1e-2)])
def test_answers_may_be_apart_by_a_share_of_the_largest_or_one(largest, allowed) -> None:
    expected = torch.tensor([[0.0, -largest], [0.0, 0.0]], dtype=torch.float64)
    near, far = expected.clone(), expected.clone()
    near[0, 0] += 0.9 * allowed
    far[0, 0] += 1.1 * allowed
    assert compare_answers(expected, near, relative_error) == pytest.approx(0.9e-4)
    with pytest.raises(ParityError, match="the two forms differ"):
        compare_answers(expected, far, relative_error)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_not_a_number_never_passes(broken: float) -> None:
    answers = torch.full((2, 1), broken)
    with pytest.raises(ParityError):
        compare_answers(answers, answers, relative_error)


def test_answers_of_other_shapes_are_refused() -> None:
    images = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ParityError, match="shapes"):
        compare_answers(nn.Flatten()(images), nn.Flatten(2)(images), relative_error)
