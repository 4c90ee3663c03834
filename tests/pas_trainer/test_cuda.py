"""What only a GPU can show."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch
from digits_trial import RECIPE, TRIAL, train_digits_supernet

from pas_trainer import attach_gates, budget_loss, load_data, run_search
from pas_trainer.loop import Trainer
from pas_trainer.optim import build_optimizer, cosine_factor
from search_space import (
    LatencyTarget,
    build_supernet,
    graph_with_latency,
    measure_latency_table,
    trace_channels,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("supernet")
    assert train_digits_supernet(folder).accuracy > 0.8
    return folder


def test_a_trial_learns_within_its_budget(supernet):
    result = run_search(TRIAL, supernet)
    assert 0.97 * 0.4 <= result.macs_ratio <= 0.4
    assert result.test_accuracy > 0.7
    x = torch.rand(16, 1, 8, 8)
    expected = result.training_network(x)  # on the CPU, in float32
    torch.testing.assert_close(result.network(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("phase", ["search", "finetune"])
def test_an_interrupted_trial_goes_on(supernet, tmp_path, phase):
    seen = []

    def report(epoch):
        seen.append((epoch.phase, epoch.epoch))
        if seen.count((phase, 2)) == 1 and seen[-1] == (phase, 2):
            raise Interrupted

    with pytest.raises(Interrupted):
        run_search(TRIAL, supernet, report=report, checkpoint_folder=tmp_path)
    result = run_search(TRIAL, supernet, report=report, checkpoint_folder=tmp_path)
    assert seen == [(p, e) for p in ("search", "finetune") for e in (1, 2, 3)]
    assert result.test_accuracy > 0.7


def test_a_search_step_never_waits_for_the_gpu():
    """However many steps an epoch has, the host waits as often."""
    device = torch.device("cuda")
    data = load_data(TRIAL.data, device)
    network = build_supernet("repvgg_tiny", 10, in_channels=1, width=0.5)
    graph = trace_channels(network, torch.empty(1, 1, 8, 8))
    gated = attach_gates(network, graph).to(device, memory_format=torch.channels_last)
    full = {"macs": float(graph.count_macs())}

    def waits(batch_size: int) -> int:
        trainer = Trainer(
            model=gated,
            optimizer=build_optimizer(gated, RECIPE, 0.01),
            data=data,
            recipe=dataclasses.replace(RECIPE, batch_size=batch_size),
            phase="search",
            num_epochs=3,
            lr_factor=cosine_factor,
            seed=0,
            device=device,
            extra_loss=lambda _: budget_loss(
                {"macs": gated.cost("macs")}, {"macs": 0.4 * full["macs"]}, full, "macs"
            ),
        )
        trainer.train_epoch(0)  # whatever is set up once
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                trainer.train_epoch(1)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in caught)

    few, many = waits(256), waits(32)
    assert 1 <= few == many


def test_images_lie_on_the_gpu_and_look_the_same_there():
    there, here = (load_data(TRIAL.data, torch.device(name)).train for name in ("cuda", "cpu"))
    pairs = zip(there.train_batches(64, 5), here.train_batches(64, 5), strict=True)
    for (images, labels), (expected, its_labels) in pairs:
        assert images.device.type == "cuda"
        assert torch.equal(images.cpu(), expected)
        assert torch.equal(labels.cpu(), its_labels)


def test_latencies_are_measured_there():
    network = build_supernet("repvgg_tiny", 10)
    graph = trace_channels(network, torch.empty(1, 3, 16, 16))
    table = measure_latency_table(graph, network, LatencyTarget(device="cuda"), seconds=2.0)
    assert graph_with_latency(graph, table).count("latency_ms") > 0
