"""One whole trial on real digits: budget, determinism, and resumption from a kill."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from pas_trainer import (
    DataConfig,
    DivergenceError,
    FinetuneConfig,
    OptimizerConfig,
    PretrainConfig,
    SearchConfig,
    SupernetTraining,
    TrialConfig,
    run_search,
    train_supernet,
)
from search_space import Budget, SupernetConfig

DATA = DataConfig(name="digits", validation=0.25)
SUPERNET = SupernetConfig(name="repvgg_tiny", options={"width": 0.5})
RECIPE = OptimizerConfig(batch_size=64)
TRIAL = TrialConfig(
    data=DATA,
    supernet=SUPERNET,
    budget=Budget(limit=0.4),
    strength=10,
    optimizer=RECIPE,
    search=SearchConfig(epochs=3),
    finetune=FinetuneConfig(epochs=3, recalibration_batches=5),
    seed=7,
)


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("supernet")
    training = SupernetTraining(
        data=DATA, supernet=SUPERNET, optimizer=RECIPE, pretrain=PretrainConfig(epochs=6)
    )
    result = train_supernet(training, folder)
    assert result.accuracy > 0.8
    assert train_supernet(training, folder) == result  # nothing is trained twice
    return folder


@pytest.fixture(scope="module")
def undisturbed(supernet):
    torch.set_num_threads(1)
    return run_search(TRIAL, supernet)


def same_weights(a, b) -> bool:
    first, second = a.network.state_dict(), b.network.state_dict()
    return all(torch.equal(first[n], second[n]) for n in first)


def test_a_trial_learns_within_its_budget(undisturbed):
    assert 0.97 * 0.4 <= undisturbed.macs_ratio <= 0.4
    assert undisturbed.accuracy > 0.7
    assert undisturbed.test_accuracy > 0.7
    x = torch.rand(16, 1, 8, 8)
    expected = undisturbed.training_network(x)
    torch.testing.assert_close(undisturbed.network(x), expected, rtol=1e-4, atol=1e-4)


def test_the_same_trial_gives_the_same_result(supernet, undisturbed):
    again = run_search(TRIAL, supernet)
    assert same_weights(again, undisturbed)
    assert again.accuracy == undisturbed.accuracy


def test_another_seed_gives_another_result(supernet, undisturbed):
    other = run_search(dataclasses.replace(TRIAL, seed=8), supernet)
    assert other.widths != undisturbed.widths or not same_weights(other, undisturbed)


@pytest.mark.parametrize(("phase", "epoch"), [("search", 1), ("search", 3), ("finetune", 2)])
def test_a_killed_trial_goes_on_bit_identically(supernet, undisturbed, tmp_path, phase, epoch):
    script = textwrap.dedent(f"""
        import os, signal, sys, torch
        import importlib.util
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
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "checkpoint.pt").exists()
    reports = []
    resumed = run_search(TRIAL, supernet, report=reports.append, checkpoint_folder=tmp_path)
    total = TRIAL.search.epochs + TRIAL.finetune.epochs
    done = epoch if phase == "search" else TRIAL.search.epochs + epoch
    assert len(reports) == total - done
    assert same_weights(resumed, undisturbed)
    assert resumed.widths == undisturbed.widths


def test_a_supernet_killed_half_way_goes_on_bit_identically(tmp_path):
    torch.set_num_threads(1)
    training = SupernetTraining(
        data=DATA, supernet=SUPERNET, optimizer=RECIPE, pretrain=PretrainConfig(epochs=3)
    )

    class StoppedError(Exception):
        pass

    def stop(report):
        if report.epoch == 2:
            raise StoppedError

    whole = train_supernet(training, tmp_path / "a")
    with pytest.raises(StoppedError):
        train_supernet(training, tmp_path / "b", stop)
    assert train_supernet(training, tmp_path / "b") == whole
    first, second = ((tmp_path / n / "supernet.safetensors").read_bytes() for n in "ab")
    assert first == second


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


def test_divergence_is_told(supernet):
    wild = dataclasses.replace(
        TRIAL, optimizer=dataclasses.replace(RECIPE, learning_rate=1e30, warmup_epochs=0)
    )
    with pytest.raises(DivergenceError, match="learning rate"):
        run_search(wild, supernet)
