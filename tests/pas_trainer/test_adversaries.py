"""Adversarial losses against their formulas, and who is trained on which."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pas_trainer import OptimizerConfig
from pas_trainer.optim import build_optimizer
from pas_trainer.tasks.adversaries import LossWeights, PairedAdversary, UnpairedAdversary
from pas_trainer.tasks.patch_critic import PatchCritic, cross_entropy, least_squares
from pas_trainer.translation_metrics import PatchDistance

CPU = torch.device("cpu")
RECIPE = OptimizerConfig(name="adamw", learning_rate=1e-3, momentum=0.5, batch_size=2)


class Says(nn.Module):
    """A critic that always says the same."""

    def __init__(self, verdict: float) -> None:
        super().__init__()
        self.verdict = nn.Parameter(torch.tensor(verdict))

    def forward(self, images):
        return self.verdict.expand(len(images), 1, 2, 2) + 0 * images.mean()


def test_losses_of_verdicts():
    verdicts = torch.tensor([0.0, 2.0])
    wanted = (math.log(2) + math.log1p(math.exp(-2.0))) / 2
    assert float(cross_entropy(verdicts, real=True)) == pytest.approx(wanted)
    assert float(least_squares(verdicts, real=False)) == pytest.approx(2.0)
    assert float(least_squares(verdicts, real=True)) == pytest.approx(1.0)


def test_a_critic_judges_patches_of_seventy_pixels():
    """What one verdict depends on, by its gradient."""
    critic = PatchCritic(3, 2, lambda _channels: nn.Identity())
    image = torch.rand(1, 3, 256, 256, requires_grad=True)
    verdicts = critic(image)
    assert verdicts.shape == (1, 1, 30, 30)
    verdicts[0, 0, 15, 15].backward()
    rows, columns = image.grad.abs().sum((0, 1)).nonzero().unbind(1)
    assert len(rows.unique()) <= 70
    assert int(rows.max() - rows.min()) == int(columns.max() - columns.min()) == 69


def test_the_loss_of_pairs_is_that_of_pix2pix():
    weights = LossWeights(adversarial=2.0, l1=10.0, distillation=3.0)
    adversary = PairedAdversary(RECIPE, weights, 3, 4, CPU)
    adversary.critics["critic"] = Says(0.0)
    teacher = nn.Conv2d(3, 3, 1, bias=False)
    nn.init.zeros_(teacher.weight)
    adversary.take_teacher(teacher, CPU)
    inputs, targets = torch.full((2, 3, 4, 4), 0.5), torch.full((2, 3, 4, 4), -0.25)
    loss = adversary.loss(nn.Identity(), inputs, targets)
    assert float(loss.detach()) == pytest.approx(2 * math.log(2) + 10 * 0.75 + 3 * 0.5, rel=1e-5)
    assert float(adversary.own_loss().detach()) == pytest.approx(math.log(2), rel=1e-5)


def test_the_loss_without_pairs_is_that_of_cyclegan():
    weights = LossWeights(adversarial=1.0, cycle=10.0, identity=0.5)
    halve, double = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False)
    with torch.no_grad():
        halve.weight.copy_(0.5 * torch.eye(3)[:, :, None, None])
        double.weight.copy_(2.0 * torch.eye(3)[:, :, None, None])
    adversary = UnpairedAdversary(RECIPE, weights, 3, 4, CPU, double)
    for name in ("a", "b"):
        adversary.critics[name] = Says(0.25)
    inputs, targets = torch.full((1, 3, 4, 4), 0.8), torch.full((1, 3, 4, 4), 0.2)
    loss = float(adversary.loss(halve, inputs, targets).detach())
    verdicts = 2 * 0.75**2
    identities = 0.5 * 0.2 + 1.0 * 0.8  # half of b, twice a; cycles come back exactly
    assert loss == pytest.approx(verdicts + 10 * 0.5 * identities, rel=1e-5)
    own = 2 * (0.75**2 + 0.25**2) / 2
    assert float(adversary.own_loss().detach()) == pytest.approx(own, rel=1e-5)


def test_adamw_moves_weights_and_sgd_the_scores_of_gates():
    from pas_trainer.gates import Gate

    module = nn.ModuleDict({"layer": nn.Linear(2, 2), "gate": Gate(3)})
    recipe = OptimizerConfig(
        name="adamw", learning_rate=0.1, gate_learning_rate=0.5, momentum=0.0, weight_decay=0.0
    )
    optimizer = build_optimizer(module, recipe, 0.1)
    before = module["layer"].weight.detach().clone()
    (1e-3 * module["layer"].weight.sum() + 0.2 * module["gate"].scores.sum()).backward()
    optimizer.step()
    assert_close(module["layer"].weight.detach(), before - 0.1, rtol=1e-3, atol=1e-4)
    assert_close(module["gate"].scores.detach(), torch.full((3,), 1 - 0.5 * 0.2))
    again = build_optimizer(module, recipe, 0.1)
    again.load_state_dict(optimizer.state_dict())
    assert len(again.param_groups) == len(optimizer.param_groups) == 3


def test_patches_of_the_same_images_are_at_no_distance_and_of_others_are():
    torch.manual_seed(0)
    images = torch.rand(4, 3, 16, 16)
    figures = []
    for others in (images, images + 0.5):
        distance = PatchDistance()
        distance.update(others, images)
        figures.append(distance.compute()["swd"])
    assert figures[0] == 0
    assert figures[1] > 1  # 0.5 is more than a deviation of uniform values, in 147 directions
