"""A task of the user's own that fails, or returns what it must not, is told in one sentence."""

from __future__ import annotations

import dataclasses
import pickle
import sys
from pathlib import Path

import pytest
import tiny_trials
import torch

from pas_trainer import (
    DataConfig,
    DataError,
    OptimizerConfig,
    PretrainConfig,
    TaskConfig,
    TaskError,
    make_task,
    train_supernet,
)
from search_space import SupernetConfig

DATA = DataConfig(name="custom")
CPU = torch.device("cpu")
TASKS = """
from own_task import *

class Unit(MeanError):
    unit = "digits"

class Fine(DigitValue):
    def judge(self, about, device):
        return Unit()

def task(method, does):
    return type("Of" + method, (DigitValue,), {method: does})

def judging(compute):
    kind = type("Judge", (MeanError,), {"compute": compute})
    return task("judge", lambda self, about, device: kind())

def fail(error):
    def does(*values):
        raise error
    return does

NoForm = task("form", "tflite")
NoTuple = task("datasets", "custom")
MakesNothing = task("__init__", fail(RuntimeError("boom\\nmore")))
Exits = task("__init__", fail(SystemExit("no licence")))

NoData = task("open_data", lambda self, config: None)
NoFile = task("open_data", fail(FileNotFoundError("no file /x")))
Unusable = task("open_data", fail(DataError("folder /x is missing; make it")))
Empty = task("open_data", lambda *_: dataclasses.replace(open_sources(DIGITS), train=[]))
NotLoaded = task("load_data", lambda self, config, device: None)
InWords = task("num_outputs", lambda self, about: "three")
Strict = task("check_network", fail(ValueError("too deep")))
Broken = task("check_network", fail(KeyError("depth")))

LossByImage = task("loss", lambda self, outputs, targets, recipe: outputs[:, 0] - targets)
LossOfNumber = task("loss", lambda *_: 1.0)
LossApart = task("loss", lambda *_: torch.ones(()))
LossFails = task("loss", fail(KeyError("boxes")))
OneThing = task("preparer", lambda self, data, device: lambda batch: batch[0])
NoJudge = task("judge", lambda self, about, device: 3)
NoFigures = judging(lambda self: 1.5)
NoMetric = judging(lambda self: {"other": 1.0})
JudgeFails = judging(lambda self: 1 / 0)
"""


@pytest.fixture
def named(tmp_path, monkeypatch):
    """Gives a task of the module above by its name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "guarded_tasks.py").write_text(
        TASKS.replace("from own_task", "from pas_trainer import DataError\nfrom own_task")
    )
    monkeypatch.delitem(sys.modules, "guarded_tasks", raising=False)
    return lambda name: TaskConfig(name=f"import:guarded_tasks:{name}")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("NoForm", "form of task .*NoForm is 'tflite'; known: program, onnx"),
        ("NoTuple", "datasets of task .*NoTuple is 'custom'"),
        ("MakesNothing", "cannot be made with its options: RuntimeError: boom$"),
        ("Exits", "cannot be made with its options: SystemExit: no licence$"),
    ],
)
def test_a_task_that_cannot_be_is_not_made(named, name, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_task(named(name))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("NoData", "open_data returned a NoneType without classes"),
        ("NoFile", r"open_data failed: FileNotFoundError: no file /x \(.*guarded_tasks.py, line"),
        ("Empty", "the train split of open_data is empty"),
        ("NotLoaded", "load_data returned a NoneType without classes"),
        ("InWords", "num_outputs returned 'three'"),
        ("Broken", "check_network failed: KeyError: 'depth'"),
    ],
)
def test_data_and_networks_that_a_task_fails_at_are_told(named, name, sentence):
    task = make_task(named(name))

    def use():
        task.num_outputs(task.open_data(DATA))
        task.load_data(DATA, CPU)
        task.check_network(torch.nn.Identity(), None)

    with pytest.raises(TaskError, match=f"^task import:guarded_tasks:{name}: {sentence}"):
        use()


def test_what_a_task_may_refuse_stays_what_it_is(named):
    with pytest.raises(ValueError, match=r"^too deep$"):
        make_task(named("Strict")).check_network(torch.nn.Identity(), None)
    with pytest.raises(DataError, match=r"^folder /x is missing"):
        make_task(named("Unusable")).open_data(DATA)
    fine = pickle.loads(pickle.dumps(make_task(named("Fine"))))  # as loaders of data may need
    assert fine.num_outputs(fine.open_data(DATA)) == 1
    assert fine.judge(None, CPU).unit == "digits"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("LossByImage", r"loss returned a Tensor of shape \(64,\); .* of shape \(\)"),
        ("LossOfNumber", r"loss returned a float; it must return a tensor of shape \(\)"),
        ("LossApart", "loss returned a tensor without a gradient"),
        ("LossFails", r"loss failed: KeyError: 'boxes' \(.*guarded_tasks.py, line"),
        ("OneThing", "what preparer returned made a Tensor of a batch; it must make two things"),
        ("NoJudge", r"judge returned a int without update\(\)"),
        ("NoFigures", "the judge gave a float, not figures by name; return a dict with mean_error"),
        ("NoMetric", "the judge gave other, but no mean_error"),
        ("JudgeFails", "judge.compute failed: ZeroDivisionError: division by zero"),
    ],
)
def test_a_task_that_fails_in_training_is_told_before_an_epoch_ends(
    named, name, sentence, tmp_path
):
    trial = dataclasses.replace(
        tiny_trials.paired(tmp_path / "unused"),
        task=named(name),
        data=DATA,
        supernet=SupernetConfig(name="repvgg_tiny", options={"width": 0.25}),
        optimizer=OptimizerConfig(batch_size=64),
    )
    training = dataclasses.replace(
        tiny_trials.pretraining(trial), pretrain=PretrainConfig(epochs=1)
    )
    epochs = []
    with pytest.raises(TaskError, match=f"^task import:guarded_tasks:{name}: {sentence}"):
        train_supernet(training, tmp_path / "supernet", epochs.append)
    assert not epochs
