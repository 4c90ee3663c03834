"""What only a GPU can show."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch
from digits_trial import RECIPE, TRIAL, train_digits_supernet
from tiny_data import write_pairs, write_penn_fudan
from torch import nn
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

from pas_trainer import (
    DataConfig,
    annealed_limits,
    attach_gates,
    budget_loss,
    load_data,
    run_search,
)
from pas_trainer.data import load_instances, load_pairs
from pas_trainer.graphed_step import GraphedStep
from pas_trainer.loop import Trainer
from pas_trainer.optim import build_optimizer, cosine_factor
from pas_trainer.tasks import Classification
from search_space import (
    LatencyTarget,
    build_supernet,
    graph_with_latency,
    measure_latency_table,
    trace_channels,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class InterruptedTrialError(Exception):
    pass


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("supernet")
    assert train_digits_supernet(folder).score > 0.8
    return folder


def test_a_trial_learns_within_its_budget(supernet):
    result = run_search(TRIAL, supernet)
    assert 0.97 * 0.4 <= result.macs_ratio <= 0.4
    assert result.test_score > 0.7
    x = torch.rand(16, 1, 8, 8)
    expected = result.training_network(x)  # on the CPU, in float32
    torch.testing.assert_close(result.network(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("phase", ["search", "finetune"])
def test_an_interrupted_trial_goes_on(supernet, tmp_path, phase):
    seen = []

    def report(epoch):
        seen.append((epoch.phase, epoch.epoch))
        if seen.count((phase, 2)) == 1 and seen[-1] == (phase, 2):
            raise InterruptedTrialError  # it is reported once more afterwards

    with pytest.raises(InterruptedTrialError):
        run_search(TRIAL, supernet, report=report, checkpoint_folder=tmp_path)
    result = run_search(TRIAL, supernet, report=report, checkpoint_folder=tmp_path)
    assert list(dict.fromkeys(seen)) == [(p, e) for p in ("search", "finetune") for e in (1, 2, 3)]
    assert result.test_score > 0.7


@pytest.fixture(scope="module")
def data():
    return load_data(TRIAL.data, torch.device("cuda"))


@pytest.fixture
def make_search(data):
    """Give a trainer that searches, always from the same start."""

    def make(batch_size: int = 64) -> Trainer:
        torch.manual_seed(0)
        network = build_supernet("repvgg_tiny", 10, in_channels=1, width=0.5)
        graph = trace_channels(network, torch.empty(1, 1, 8, 8))
        gated = attach_gates(network, graph).to("cuda", memory_format=torch.channels_last)
        full = {"macs": float(graph.count_macs())}
        limits = {"macs": 0.4 * full["macs"]}
        return trainer_of(
            gated,
            data,
            batch_size,
            lambda now: (
                10
                * budget_loss(
                    {"macs": gated.cost("macs")},
                    annealed_limits(now, limits, full, 0.7),
                    full,
                    "macs",
                )
            ),
        )

    return make


def trainer_of(network, data, batch_size=64, extra_loss=None) -> Trainer:
    return Trainer(
        model=network.train(),
        optimizer=build_optimizer(network, RECIPE, 0.01),
        task=Classification(),
        data=data,
        recipe=dataclasses.replace(RECIPE, batch_size=batch_size),
        phase="search",
        num_epochs=3,
        lr_factor=cosine_factor,
        seed=0,
        device=torch.device("cuda"),
        extra_loss=extra_loss,
    )


def test_a_recorded_step_does_what_the_step_does(make_search, data, monkeypatch):
    recorded = make_search()
    recorded.prepare()
    assert isinstance(recorded._run, GraphedStep)
    monkeypatch.setattr("pas_trainer.loop.recorded", lambda gradients, *_: gradients)
    eager = make_search()
    eager.prepare()
    assert eager._run == eager._gradients
    prepare = Classification().preparer(data, torch.device("cuda"))
    ready = [prepare(batch) for batch in data.train.train_batches(64, 0)]
    first, *others = ready[:4]
    losses = [float(trainer.step(*first, 0.0)) for trainer in (recorded, eager)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    ours, its = (dict(trainer.model.named_parameters()) for trainer in (recorded, eager))
    for name, parameter in ours.items():  # computed in bfloat16
        error = (parameter.grad - its[name].grad).norm() / its[name].grad.norm().clamp_min(1e-3)
        assert error < 0.1, name
    statistics = dict(eager.model.named_buffers())
    for name, buffer in recorded.model.named_buffers():
        assert_close(buffer, statistics[name], rtol=0.05, atol=0.05)
    for k, batch in enumerate(others):
        losses = [float(trainer.step(*batch, k / 3)) for trainer in (recorded, eager)]
        assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_a_recorded_search_comes_down_to_its_limit(make_search):
    trainer = make_search()
    for epoch in range(3):
        trainer.train_epoch(epoch)
    graph = trainer.model.graph
    graph.count_macs()  # on the CPU: leaves alone what was recorded
    assert float(trainer.model.cost("macs").detach()) < 0.7 * graph.count_macs()


class Decides(nn.Module):
    """Looks at what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        y = self.layer(x.flatten(1))
        return -y if y.sum().item() > 1e9 else y


def test_what_cannot_be_recorded_is_trained_all_the_same(data, caplog):
    torch.manual_seed(0)
    trainer = trainer_of(Decides().to("cuda"), data)
    losses = [trainer.train_epoch(epoch) for epoch in range(3)]
    assert losses[2] < losses[0]
    assert "steps are launched kernel by kernel" in caplog.text
    assert len(caplog.records) == 1


def test_a_search_step_never_waits_for_the_gpu(make_search):
    """However many steps an epoch has, the host waits as often."""

    def waits(batch_size: int) -> int:
        trainer = make_search(batch_size)
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


@pytest.mark.parametrize(
    ("name", "write", "load"),
    [
        ("penn_fudan", write_penn_fudan, load_instances),
        ("paired", lambda root: write_pairs(root, train=9, val=2, test=2), load_pairs),
    ],
)
def test_objects_and_pairs_lie_on_the_gpu_and_look_the_same_there(tmp_path, name, write, load):
    config = DataConfig(name=name, root=str(write(tmp_path)), image_size=24)
    there, here = (load(config, torch.device(device)).train for device in ("cuda", "cpu"))
    pairs = zip(there.train_batches(4, 5), here.train_batches(4, 5), strict=True)
    for batch, expected in pairs:
        for found, its in zip(tree_leaves(batch), tree_leaves(expected), strict=True):
            assert found.device.type == "cuda"
            assert torch.equal(found.cpu(), its)


def test_latencies_are_measured_there():
    network = build_supernet("repvgg_tiny", 10)
    graph = trace_channels(network, torch.empty(1, 3, 16, 16))
    table = measure_latency_table(graph, network, LatencyTarget(device="cuda"), seconds=2.0)
    assert graph_with_latency(graph, table).count("latency_ms") > 0
