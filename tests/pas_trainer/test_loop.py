"""What an epoch of training promises beside what whole trials show."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from digits_trial import DATA
from torch import nn
from torch.testing import assert_close

from pas_trainer import OptimizerConfig
from pas_trainer.data import load_data
from pas_trainer.loop import Trainer
from pas_trainer.optim import build_optimizer
from pas_trainer.tasks import Classification


def one_epoch(network: nn.Module, recipe: OptimizerConfig) -> float:
    trainer = Trainer(
        model=network,
        optimizer=build_optimizer(network, recipe, 0.05),
        task=Classification(),
        data=load_data(DATA),
        recipe=recipe,
        phase="pretrain",
        num_epochs=1,
        lr_factor=lambda *_: 1.0,
        seed=0,
        device=torch.device("cpu"),
        extra_loss=lambda _progress: network[1].weight.square().sum() * 1e-3,
    )
    return trainer.train_epoch(0)


@pytest.mark.parametrize("micro_batches", [2, 3, 25])
def test_gradients_of_micro_batches_add_up_to_those_of_the_batch(micro_batches):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    whole, parts = network, copy.deepcopy(network)
    recipe = OptimizerConfig(batch_size=50)
    loss = one_epoch(whole, recipe)
    again = one_epoch(parts, dataclasses.replace(recipe, micro_batches=micro_batches))
    assert again == pytest.approx(loss, rel=1e-4)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("micro_batches", [0, 26])
def test_parts_too_small_for_batch_norm_are_refused(micro_batches):
    with pytest.raises(ValueError, match="micro_batches is"):
        OptimizerConfig(batch_size=50, micro_batches=micro_batches)
