"""Controls on real digits: widths, compute, channels, and resumption."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch
from torch import nn

from pas_trainer import (
    ControlConfig,
    DataConfig,
    FinetuneConfig,
    OptimizerConfig,
    PretrainConfig,
    SearchConfig,
    SupernetTraining,
    TrialConfig,
    read_supernet_result,
    run_control,
    run_search,
    train_supernet,
)
from pas_trainer.channel_norms import channel_norms
from search_space import (
    Budget,
    SupernetConfig,
    build_supernet,
    trace_channels,
)

DATA = DataConfig(name="digits", validation=0.25, train_images=320, test_images=100)
SUPERNET = SupernetConfig(name="repvgg_tiny", options={"width": 0.5})
BATCH = 32
RECIPE = OptimizerConfig(batch_size=BATCH)
TRIAL = TrialConfig(
    data=DATA,
    supernet=SUPERNET,
    budget=Budget(limit=0.4),
    strength=0,
    optimizer=RECIPE,
    search=SearchConfig(epochs=2),
    finetune=FinetuneConfig(epochs=3, recalibration_batches=2),
    seed=7,
)
PRETRAIN = 4
IMAGES = 224  # whole batches of the 240 that are not held out


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("supernet")
    pretrain = PretrainConfig(epochs=PRETRAIN)
    train_supernet(
        SupernetTraining(data=DATA, supernet=SUPERNET, optimizer=RECIPE, pretrain=pretrain), folder
    )
    return folder


@pytest.fixture
def given_weights(supernet, tmp_path):
    """TRIAL with a supernet that is taken as it is, and the supernet's folder."""
    where = dataclasses.replace(SUPERNET, weights=str(supernet / "supernet.safetensors"))
    pretrain = PretrainConfig(epochs=0)
    folder = tmp_path / "given"
    train_supernet(
        SupernetTraining(data=DATA, supernet=where, optimizer=RECIPE, pretrain=pretrain), folder
    )
    return dataclasses.replace(TRIAL, supernet=where), folder


def trial_compute(full: int, macs: int) -> int:
    """Search and fine-tuning, by hand."""
    return 3 * full * IMAGES * 2 + macs * 2 * BATCH + 3 * macs * IMAGES * 3


def run(kind, trial, folder, **options):
    reports = []
    result = run_control(
        ControlConfig(kind=kind, trial=trial), folder, report=reports.append, **options
    )
    return result, reports


def same_weights(a, b) -> bool:
    first, second = a.training_network.state_dict(), b.training_network.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_a_trial_tells_its_compute(supernet):
    full = read_supernet_result(supernet).macs
    result = run_search(TRIAL, supernet)
    spent = 3 * full * IMAGES * PRETRAIN + trial_compute(full, result.macs)
    assert result.training_macs == spent


def test_the_uniform_control_has_the_compute_of_a_trial_pre_training_included(supernet):
    result, reports = run("uniform", TRIAL, supernet)
    assert 0.97 * 0.4 <= result.macs_ratio <= 0.4
    full = read_supernet_result(supernet).macs
    given = 3 * full * IMAGES * PRETRAIN + trial_compute(full, int(0.4 * full))
    epoch = 3 * result.macs * IMAGES
    assert len(reports) == given // epoch > PRETRAIN + 2 + 3
    assert result.training_macs == len(reports) * epoch
    assert {r.phase for r in reports} == {"control"}
    assert {r.macs_ratio for r in reports} == {result.macs_ratio}
    assert result.score > 0.5


def test_the_supernet_is_trained_on_for_as_long_as_a_trial(supernet):
    result, reports = run("supernet", TRIAL, supernet)
    full = read_supernet_result(supernet)
    assert (result.macs, result.num_params) == (full.macs, full.num_params)
    given = trial_compute(full.macs, int(0.4 * full.macs))
    assert len(reports) == given // (3 * full.macs * IMAGES)
    assert result.training_macs == 3 * full.macs * IMAGES * (PRETRAIN + len(reports))
    assert reports[0].score > full.score - 0.3  # not from scratch
    assert result.score > 0.5


def test_given_weights_are_sliced_and_cost_nothing(given_weights):
    trial, folder = given_weights
    full = read_supernet_result(folder).macs
    assert read_supernet_result(folder).training_macs == 0
    result, reports = run("uniform", trial, folder)
    given = trial_compute(full, int(0.4 * full)) - result.macs * 2 * BATCH
    assert len(reports) == given // (3 * result.macs * IMAGES)
    assert result.training_macs == result.macs * (2 * BATCH + 3 * IMAGES * len(reports))
    kept = result.architecture.open_channels
    assert any(list(units) != list(range(len(units))) for units in kept.values())


@pytest.mark.parametrize("weights", [None, "given"])
def test_a_control_goes_on_bit_identically(supernet, given_weights, tmp_path, weights):
    trial, folder = given_weights if weights else (TRIAL, supernet)
    whole, reports = run("uniform", trial, folder)

    class StoppedError(Exception):
        pass

    def stop(report):
        if report.epoch == 2:
            raise StoppedError

    config = ControlConfig(kind="uniform", trial=trial)
    with pytest.raises(StoppedError):
        run_control(config, folder, report=stop, checkpoint_folder=tmp_path)
    resumed, rest = run("uniform", trial, folder, checkpoint_folder=tmp_path)
    assert rest == reports[1:]  # its last epoch is told once more
    assert same_weights(resumed, whole)


def test_from_scratch_depends_on_the_seed_alone(supernet):
    short = dataclasses.replace(
        TRIAL,
        search=SearchConfig(epochs=1),
        finetune=FinetuneConfig(epochs=1, recalibration_batches=1),
    )
    first, _ = run("uniform", short, supernet)
    again, _ = run("uniform", short, supernet)
    other, _ = run("uniform", dataclasses.replace(short, seed=8), supernet)
    assert same_weights(first, again)
    assert not same_weights(first, other)
    assert first.widths == other.widths


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.head((x + self.second(x)).mean((2, 3)))


def test_norms_are_those_of_everything_that_writes_a_channel():
    network = Residual()
    graph = trace_channels(network, torch.empty(1, 1, 8, 8))
    (norms,) = channel_norms(network, graph).values()
    first, second = network.first.weight.abs(), network.second.weight.abs()
    expected = first.sum((1, 2, 3)) + second.sum((1, 2, 3))
    torch.testing.assert_close(norms.float(), expected.detach())


def test_norms_of_blocks_run_over_their_branches():
    network = build_supernet("repvgg_tiny", 10, 1, width=0.5)
    graph = trace_channels(network, torch.empty(1, 1, 8, 8))
    norms = channel_norms(network, graph)
    for group in graph.groups:
        block = network.get_submodule(group.name)
        weights = [block.branch(n)[0].weight.abs().sum((1, 2, 3)) for n in block.branch_names]
        torch.testing.assert_close(norms[group.name].float(), sum(weights).detach())


def test_an_unknown_control_is_refused():
    with pytest.raises(ValueError, match="kind is 'random'; known: supernet, uniform"):
        ControlConfig(kind="random", trial=TRIAL)


def test_a_supernet_without_measures_is_refused(supernet, tmp_path):
    shutil.copy(supernet / "supernet.safetensors", tmp_path)
    with pytest.raises(ValueError, match="does not hold the measures of a trained supernet"):
        run("uniform", TRIAL, tmp_path)
