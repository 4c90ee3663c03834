"""A feature network of the user's own is run before anything is trained."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from pas_trainer import TaskConfig, make_task

NETWORKS = """
import torch
from torch import nn

class Mean(nn.Module):
    def __init__(self, last=lambda features: features):
        super().__init__()
        self.layer, self.last = nn.Conv2d(3, 6, 3), last

    def forward(self, images):
        return self.last(self.layer(images).mean((2, 3)))

def good():
    return Mean()

def maps():
    return nn.Conv2d(3, 6, 3)

def fails():
    raise RuntimeError("no weights\\nsecond line")

def exits():
    raise SystemExit("no licence")

def no_network():
    return abs

def large():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 299 * 299, 2))

def half():
    return Mean().half()

def named():
    return Mean(lambda features: {"features": features})

def one_row():
    return Mean(lambda features: features[:1])

def one_number():
    return Mean(lambda features: features.mean())

def whole():
    return Mean(lambda features: features.long())

def nan():
    return Mean(lambda features: features * torch.nan)
"""
ABOUT = SimpleNamespace(classes=(), channels=3, image_size=32, paired=False)


@pytest.fixture
def check(tmp_path, monkeypatch):
    (tmp_path / "own_features.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_features", raising=False)

    def with_features(name):
        options = {"metric": "kid", "features": f"import:own_features:{name}"}
        task = make_task(TaskConfig(name="image_translation", options=options))
        task.check_network(torch.nn.Conv2d(3, 3, 1), ABOUT)

    return with_features


@pytest.mark.parametrize("name", ["good", "maps"])
def test_features_of_each_image_are_taken(check, name):
    check(name)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("fails", "own_features:fails failed: RuntimeError: no weights$"),
        ("exits", "failed: SystemExit: no licence"),
        ("no_network", "returns a builtin_function_or_method; it must return a network"),
        ("large", r"\(2, 3, 32, 32\) do not pass through task.options.features import:own_f"),
        ("half", "do not pass through .* let it take float32 images of data.image_size"),
        ("named", r"gives dict for 2 images; it must give a tensor \(2, \.\.\.\)"),
        ("one_row", r"gives shape \(1, 6\) for 2 images"),
        ("one_number", r"gives shape \(\) for 2 images"),
        ("whole", "gives torch.int64 features; they must be finite floats"),
        ("nan", "gives NaN or infinite features"),
    ],
)
def test_what_gives_no_features_is_told(check, name, sentence):
    with pytest.raises(ValueError, match=sentence):
        check(name)
