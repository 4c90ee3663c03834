"""Several workers give what one gives at the same batch size, up to rounding."""

from __future__ import annotations

import pytest
import shared_work
import torch
from digits_trial import train_digits_supernet
from shared_work import SHORT_TRIAL
from torch.testing import assert_close
from worker_group import run_in_group

from pas_trainer.data import load_data
from pas_trainer.data.batches import Share


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("supernet")
    train_digits_supernet(folder)
    return folder


def test_batch_norm_over_shares_is_that_over_the_batch(tmp_path):
    images = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    images *= torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1)
    images += torch.tensor([0.0, 100.0, -5.0]).view(3, 1, 1)
    shares = run_in_group(tmp_path, 2, shared_work.normed, images)

    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(3).double()
    torch.nn.init.normal_(norm.weight)
    whole = images.clone().requires_grad_()
    out = norm(whole)
    for rank, share in enumerate(shares):
        assert_close(share["output"], out[rank::2].detach(), rtol=1e-9, atol=1e-9)
        assert_close(share["running_mean"], norm.running_mean)
        assert_close(share["running_var"], norm.running_var)
    factors = [torch.arange(192).view(4, 3, 4, 4) % 7 + images[rank::2] for rank in range(2)]
    loss = sum((out[r::2].square() * factors[r]).sum() for r in range(2))
    loss.backward()
    for rank, share in enumerate(shares):
        assert_close(share["gradient"], whole.grad[rank::2], rtol=1e-7, atol=1e-7)
    weight_gradient = sum(share["weight_gradient"] for share in shares)
    assert_close(weight_gradient, norm.weight.grad, rtol=1e-7, atol=1e-7)


def test_an_epoch_with_gates_is_the_same_on_two_workers(supernet, tmp_path):
    alone = shared_work.gated_epoch(supernet)
    first, second = run_in_group(tmp_path, 2, shared_work.gated_epoch, supernet)
    assert first[:2] == second[:2]
    assert first[0] == pytest.approx(alone[0], rel=1e-4)
    assert first[1] == pytest.approx(alone[1], abs=0.01)
    for name, value in alone[2].items():
        assert torch.equal(first[2][name], second[2][name]), name
        assert_close(first[2][name], value, rtol=1e-2, atol=1e-3, msg=name)
    moved = [v for n, v in alone[2].items() if n.endswith("scores")]
    assert any((scores - 1).abs().max() > 0.01 for scores in moved)


def test_two_workers_run_a_trial_and_keep_one_checkpoint(supernet, tmp_path):
    folder = tmp_path / "trial"
    first, second = run_in_group(tmp_path, 2, shared_work.whole_trial, supernet, folder)
    assert first[:2] == second[:2]
    assert all(torch.equal(first[2][n], second[2][n]) for n in first[2])
    assert [path.name for path in folder.iterdir()] == ["checkpoint.pt"]
    again = run_in_group(folder, 2, shared_work.whole_trial, supernet, folder)
    assert all(torch.equal(again[1][2][n], first[2][n]) for n in first[2])
    assert first[1] > 0.8


def test_two_workers_train_one_supernet(tmp_path):
    folder = tmp_path / "new"
    first, second = run_in_group(tmp_path, 2, shared_work.supernet, folder)
    assert first == second
    assert sorted(path.name for path in folder.iterdir()) == [
        "supernet.json",
        "supernet.safetensors",
    ]


def test_errors_of_the_first_worker_reach_all(supernet, tmp_path):
    assert run_in_group(tmp_path, 2, shared_work.failing_on_first) == ["the file is broken"] * 2
    told = run_in_group(tmp_path, 2, shared_work.odd_batches, supernet)
    assert told == ["batches of 33 images cannot be shared equally by 2 workers"] * 2


def test_shares_make_up_the_batch():
    split = load_data(SHORT_TRIAL.data).train
    whole = next(split.train_batches(8, seed=3))
    shares = [next(split.train_batches(8, 3, Share(rank, 2))) for rank in range(2)]
    for rank, (images, labels) in enumerate(shares):
        assert torch.equal(images, whole[0][rank::2])
        assert torch.equal(labels, whole[1][rank::2])
    num_images = sum(
        len(labels) for rank in range(3) for _, labels in split.eval_batches(50, Share(rank, 3))
    )
    assert num_images == len(split)
