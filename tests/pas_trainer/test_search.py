"""One whole trial on real digits: budget, determinism, and resumption from a kill."""

from __future__ import annotations

import dataclasses
import itertools
import math
import signal
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from digits_trial import DATA, RECIPE, SUPERNET, TRIAL, train_digits_supernet
from latency_tables import write_product_table
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torchvision.models.googlenet import GoogLeNetOutputs
from warm_python import warm_python

from pas_trainer import (
    DataConfig,
    DivergenceError,
    FinetuneConfig,
    OptimizerConfig,
    PretrainConfig,
    SearchConfig,
    SupernetTraining,
    TrialConfig,
    logits_of,
    read_supernet_result,
    run_search,
    train_supernet,
)
from pas_trainer.tasks import Classification
from search_space import Budget, SupernetConfig


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("supernet")
    result = train_digits_supernet(folder)
    assert result.score > 0.8
    assert train_digits_supernet(folder) == result  # nothing is trained twice
    return folder


@pytest.fixture(scope="module")
def undisturbed(supernet):
    return run_search(TRIAL, supernet)


def same_weights(a, b) -> bool:
    first, second = a.network.state_dict(), b.network.state_dict()
    return all(torch.equal(first[n], second[n]) for n in first)


def test_a_trial_learns_within_its_budget(undisturbed):
    assert 0.97 * 0.4 <= undisturbed.macs_ratio <= 0.4
    assert undisturbed.score > 0.7
    assert undisturbed.test_score > 0.7
    x = torch.rand(16, 1, 8, 8)
    expected = undisturbed.training_network(x)
    torch.testing.assert_close(undisturbed.network(x), expected, rtol=1e-4, atol=1e-4)


def test_the_same_trial_gives_the_same_result(supernet, undisturbed):
    again = run_search(TRIAL, supernet)
    assert same_weights(again, undisturbed)
    assert again.score == undisturbed.score


def test_widths_are_told_while_they_are_searched(supernet, undisturbed):
    told = []
    run_search(TRIAL, supernet, report=told.append)
    for epoch in told:
        assert bool(epoch.widths) == (epoch.phase == "search")
    searched = [epoch.widths for epoch in told if epoch.phase == "search"]
    assert all(widths.keys() == undisturbed.widths.keys() for widths in searched)
    assert sum(searched[-1].values()) < sum(searched[0].values())


def test_another_seed_gives_another_result(supernet, undisturbed):
    other = run_search(dataclasses.replace(TRIAL, seed=8), supernet)
    assert other.widths != undisturbed.widths or not same_weights(other, undisturbed)


@pytest.mark.parametrize(("phase", "epoch"), [("search", 1), ("search", 3), ("finetune", 2)])
def test_a_killed_trial_goes_on_bit_identically(supernet, undisturbed, tmp_path, phase, epoch):
    script = textwrap.dedent(f"""
        import os, signal, sys, torch
        import importlib.util
        sys.path[:] = {sys.path!r}
        spec = importlib.util.spec_from_file_location("case", {__file__!r})
        case = importlib.util.module_from_spec(spec); spec.loader.exec_module(case)
        from pathlib import Path
        torch.set_num_threads(1)
        def report(r):
            if (r.phase, r.epoch) == ({phase!r}, {epoch}):
                os.kill(os.getpid(), signal.SIGKILL)
        case.run_search(case.TRIAL, Path({str(supernet)!r}), report=report,
                        checkpoint_folder=Path({str(tmp_path)!r}))
    """)
    killed = subprocess.run([warm_python(), "-c", script], check=False)
    assert killed.returncode == -signal.SIGKILL
    before = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["seconds"]
    reports = []
    resumed = run_search(TRIAL, supernet, report=reports.append, checkpoint_folder=tmp_path)
    total = TRIAL.search.epochs + TRIAL.finetune.epochs
    done = epoch if phase == "search" else TRIAL.search.epochs + epoch
    assert len(reports) == 1 + total - done  # the last one is reported once more
    assert same_weights(resumed, undisturbed)
    assert resumed.widths == undisturbed.widths
    if phase == "finetune":
        assert before["search"] == resumed.seconds["search"]
    assert 0 < before[phase] <= reports[0].seconds[phase] <= resumed.seconds[phase]
    assert sum(before.values()) < sum(reports[1].seconds.values())


class DriverLostError(Exception):
    pass


@pytest.mark.parametrize("place", [("search", 3), ("finetune", 2)])
def test_an_epoch_that_nobody_heard_of_is_reported_again(supernet, tmp_path, place):
    heard = []

    def report(epoch):
        if (epoch.phase, epoch.epoch) == place and epoch not in heard:
            heard.append(epoch)
            raise DriverLostError
        heard.append(epoch)

    with pytest.raises(DriverLostError):
        run_search(TRIAL, supernet, report=report, checkpoint_folder=tmp_path)
    before = len(heard)
    run_search(TRIAL, supernet, report=report, checkpoint_folder=tmp_path)
    assert heard[before] == heard[before - 1]  # seconds apart
    epochs = [(p, e) for p in ("search", "finetune") for e in (1, 2, 3)]
    assert [(e.phase, e.epoch) for e in heard[:before] + heard[before + 1 :]] == epochs


def test_a_supernet_killed_half_way_goes_on_bit_identically(tmp_path):
    training = SupernetTraining(
        data=DATA, supernet=SUPERNET, optimizer=RECIPE, pretrain=PretrainConfig(epochs=3)
    )

    class StoppedError(Exception):
        pass

    heard = []

    def stop(report):
        heard.append(report)
        if report.epoch == 2 and heard.count(report) == 1:
            raise StoppedError

    whole = train_supernet(training, tmp_path / "a")
    with pytest.raises(StoppedError):
        train_supernet(training, tmp_path / "b", stop)
    assert train_supernet(training, tmp_path / "b", stop) == whole
    assert [report.epoch for report in heard] == [1, 2, 2, 3]  # nobody may have heard of the 2nd
    first, second = ((tmp_path / n / "supernet.safetensors").read_bytes() for n in "ab")
    assert first == second


def test_given_weights_are_taken_as_they_are(supernet, tmp_path):
    """A supernet with 0 epochs is the file, and measures what the file's network measured."""
    weights = supernet / "supernet.safetensors"
    training = SupernetTraining(
        data=DATA,
        supernet=dataclasses.replace(SUPERNET, weights=str(weights)),
        optimizer=RECIPE,
        pretrain=PretrainConfig(epochs=0),
    )
    taken = train_supernet(training, tmp_path)
    assert taken.training_macs == 0
    trained = read_supernet_result(supernet)
    assert dataclasses.replace(taken, training_macs=trained.training_macs) == trained
    assert taken == read_supernet_result(tmp_path)
    first, second = (load_file(f / "supernet.safetensors") for f in (supernet, tmp_path))
    assert all(torch.equal(t, second[n]) for n, t in first.items())


def test_training_goes_on_from_given_weights(supernet, tmp_path):
    training = SupernetTraining(
        data=DATA,
        supernet=dataclasses.replace(SUPERNET, weights=str(supernet / "supernet.safetensors")),
        optimizer=dataclasses.replace(RECIPE, learning_rate=1e-3),
        pretrain=PretrainConfig(epochs=1),
    )
    scratch = dataclasses.replace(training, supernet=SUPERNET)
    started = train_supernet(training, tmp_path / "a").score
    assert started > train_supernet(scratch, tmp_path / "b").score + 0.2


def test_without_weights_there_must_be_epochs():
    with pytest.raises(ValueError, match=r"pretrain\.epochs is 0, but supernet\.weights"):
        SupernetTraining(data=DATA, supernet=SUPERNET, pretrain=PretrainConfig(epochs=0))


def test_logits_are_taken_from_what_a_network_returns():
    logits, aux = torch.rand(2, 3), torch.rand(2, 3)
    assert logits_of(logits) is logits
    assert logits_of(GoogLeNetOutputs(logits, aux, None)) is logits
    with pytest.raises(ValueError, match="type dict; it must return logits"):
        logits_of({"out": logits})


def latency_trial(folder: Path, **changes) -> TrialConfig:
    """TRIAL with half of the latency, by a table in which ms are products of channels."""
    config = dataclasses.replace(
        TRIAL,
        budget=Budget(resource="latency_ms", limit=0.5, also={"macs": 0.9}),
        latency_table=str(write_product_table(folder)),
        search=SearchConfig(epochs=2),
        finetune=FinetuneConfig(epochs=1, recalibration_batches=2),
    )
    return dataclasses.replace(config, **changes)


def test_a_limit_on_latency_is_met_by_the_table(supernet, tmp_path):
    result = run_search(latency_trial(tmp_path), supernet)
    sizes = [1, *(result.widths[f"stages.{n}"] for n in ("0.0", "1.0", "1.1", "2.0", "2.1"))]
    layers = [a * b for a, b in itertools.pairwise(sizes)]
    last = sizes[-1]
    assert result.predicted_latency_ms == pytest.approx(1e-3 * (sum(layers) + 3 * last))
    full = [1, 8, 16, 16, 32, 32]
    limit = 0.5e-3 * (sum(a * b for a, b in itertools.pairwise(full)) + 3 * full[-1])
    assert 0.97 * limit <= result.predicted_latency_ms <= limit
    assert result.macs_ratio <= 0.9


def test_latency_needs_a_table_that_can_be_read(supernet, tmp_path):
    with pytest.raises(ValueError, match="latency_table is not given"):
        latency_trial(tmp_path, latency_table=None)
    nowhere = latency_trial(tmp_path, latency_table=str(tmp_path / "nowhere.json"))
    with pytest.raises(ValueError, match=r"nowhere\.json cannot be read: No such file"):
        run_search(nowhere, supernet)


class TwoHeads(nn.Module):
    """Returns a named tuple while it trains, as torchvision's GoogLeNet does."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(in_channels, 12, 3, 2, 1), nn.BatchNorm2d(12))
        self.second = nn.Conv2d(12, 16, 3, padding=1)
        self.classifier = nn.Linear(16, num_classes)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x))))
        logits = self.classifier(x.mean((2, 3)))
        return GoogLeNetOutputs(logits, None, None) if self.training else logits


@pytest.fixture
def images(tmp_path):
    """Red and blue images, 20 of each for training and 5 for the test."""
    root, generator = tmp_path / "images", np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 5)):
        for channel, name in ((0, "red"), (2, "blue")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 128, (32, 32, 3), np.uint8)
                pixels[..., channel] += 127
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("torchvision:resnet18", {"stem": "cifar"}),
        ("torchvision:mobilenet_v2", {"stem": "cifar", "width_mult": 0.25}),
        ("import:trainer_user_nets:TwoHeads", {}),
    ],
)
def test_networks_of_others_are_searched(tmp_path, images, monkeypatch, name, options):
    user_nets = types.ModuleType("trainer_user_nets")
    monkeypatch.setattr(user_nets, "TwoHeads", TwoHeads, raising=False)
    monkeypatch.setitem(sys.modules, "trainer_user_nets", user_nets)
    few = DataConfig(name="imagefolder", root=str(images), image_size=32, validation=0.2)
    source = SupernetConfig(name=name, options=options)
    recipe = OptimizerConfig(batch_size=8)
    training = SupernetTraining(
        data=few, supernet=source, optimizer=recipe, pretrain=PretrainConfig(epochs=1)
    )
    train_supernet(training, tmp_path)
    trial = dataclasses.replace(
        TRIAL,
        data=few,
        supernet=source,
        optimizer=recipe,
        search=SearchConfig(epochs=1),
        finetune=FinetuneConfig(epochs=1, recalibration_batches=2),
    )
    result = run_search(trial, tmp_path)
    assert 0.97 * 0.4 <= result.macs_ratio <= 0.4
    assert sum(p.numel() for p in result.network.parameters()) == result.num_params
    x = torch.rand(4, 3, 32, 32)
    expected = result.training_network(x)
    torch.testing.assert_close(result.network(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strength", [0.0, 0.1, 1000.0, 1e6])
def test_any_strength_ends_in_a_network_at_its_budget(supernet, strength):
    short = dataclasses.replace(
        TRIAL,
        strength=strength,
        search=SearchConfig(epochs=1),
        finetune=FinetuneConfig(epochs=1, recalibration_batches=2),
    )
    result = run_search(short, supernet)
    assert 0.97 * 0.4 <= result.macs_ratio <= 0.4
    assert min(result.widths.values()) >= 1


def test_a_score_that_is_no_number_fails_the_trial(supernet, monkeypatch):
    monkeypatch.setattr(Classification, "evaluate", lambda *_: {"accuracy": math.nan})
    short = dataclasses.replace(
        TRIAL, search=SearchConfig(epochs=1), finetune=FinetuneConfig(epochs=1)
    )
    with pytest.raises(DivergenceError, match="accuracy of the finished network is nan"):
        run_search(short, supernet)


def test_divergence_is_told(supernet):
    wild = dataclasses.replace(
        TRIAL, optimizer=dataclasses.replace(RECIPE, learning_rate=1e30, warmup_epochs=0)
    )
    with pytest.raises(DivergenceError, match="learning rate"):
        run_search(wild, supernet)
