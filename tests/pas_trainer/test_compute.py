from __future__ import annotations

import pytest

from pas_trainer.compute import TrialCompute, epochs_within, images_per_epoch, training_macs


@pytest.mark.parametrize(
    ("num_images", "batch_size", "expected"),
    [(1000, 100, 1000), (1000, 64, 960), (1000, 999, 999), (10, 64, 10), (2, 2, 2)],
)
def test_an_epoch_takes_full_batches(num_images, batch_size, expected):
    assert images_per_epoch(num_images, batch_size) == expected


def test_an_epoch_counts_the_images_that_are_trained_on():
    import torch

    from pas_trainer.data.batches import MemorySplit

    for num_images, batch_size in ((10, 64), (70, 32), (64, 32)):
        images = torch.zeros(num_images, 1, 8, 8, dtype=torch.uint8)
        split = MemorySplit(images, torch.zeros(num_images, dtype=torch.long), 0, False)
        trained = sum(len(labels) for _, labels in split.train_batches(batch_size, 0))
        assert images_per_epoch(num_images, batch_size) == trained


def test_a_step_costs_three_forward_passes():
    assert training_macs(7, 100, 5) == 3 * 7 * 100 * 5
    assert training_macs(7, 100, 0) == 0


def test_a_trial_is_search_at_full_cost_and_the_rest_at_its_own():
    compute = TrialCompute(
        full_macs=1000,
        epoch_images=60,
        search_images=64,
        recalibration_images=20,
        search_epochs=4,
        finetune_epochs=10,
    )
    assert compute.search() == 3 * 1000 * 64 * 4
    assert compute.recalibration(250) == 250 * 20
    assert compute.finetune(250) == 250 * 20 + 3 * 250 * 60 * 10
    assert compute.trial(250) == 768_000 + 5_000 + 450_000


@pytest.mark.parametrize(
    ("compute", "expected"), [(0, 1), (-5, 1), (599, 1), (600, 1), (1199, 1), (1200, 2), (6001, 10)]
)
def test_epochs_are_whole_and_at_least_one(compute, expected):
    assert epochs_within(compute, macs=2, epoch_images=100) == expected
