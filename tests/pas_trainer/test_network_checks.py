"""Networks that could not be trained, kept or built again are told by what is wrong with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pas_trainer.network_checks import check_builds_alike, check_trainable


class Net(nn.Module):
    """Builds one layer; ``also`` adds what a test is about."""

    def __init__(self, also=lambda _: None, width=4):
        super().__init__()
        self.layer = nn.Linear(3, width)
        also(self)


def own(value):
    return lambda net: setattr(net.layer, "grid", value())


def buffer(value, persistent):
    return lambda net: net.register_buffer("grid", value(), persistent=persistent)


def seeded():
    return torch.randn(3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("also", "name"),
    [
        (buffer(lambda: torch.randn(3), persistent=False), "grid"),
        (own(lambda: torch.randn(3)), r"layer\.grid"),
        (own(lambda: [torch.zeros(2), {"b": torch.randn(3)}]), r"layer\.grid"),
        (own(lambda: torch.randn(3).numpy()), r"layer\.grid"),
        (own(lambda: [nn.Linear(2, 2).weight]), r"layer\.grid"),
    ],
)
def test_random_tensors_that_no_weights_file_holds_are_named(also, name):
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=f"^{name} has other values each time.* persistent buffer"):
        check_builds_alike(lambda: Net(also))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "also",
    [
        lambda _: None,
        buffer(lambda: torch.randn(3), persistent=True),
        buffer(lambda: torch.tensor([1.0, torch.nan, torch.inf]), persistent=False),
        buffer(seeded, persistent=False),
        own(seeded),
        own(lambda: np.arange(3)),
        lambda net: setattr(net, "first", [net.layer.weight, net.layer.weight.data]),
    ],
)
def test_what_is_kept_or_always_the_same_is_taken(also):
    check_builds_alike(lambda: Net(also))


def test_a_layout_that_changes_is_told():
    widths = iter((4, 6))
    with pytest.raises(ValueError, match=r"layer\.weight is \(4, 3\), then \(6, 3\)"):
        check_builds_alike(lambda: Net(width=next(widths)))
    parts = iter((lambda _: None, lambda net: setattr(net, "more", nn.Linear(2, 2))))
    with pytest.raises(ValueError, match=r"more\.weight is none, then \(2, 2\)"):
        check_builds_alike(lambda: Net(next(parts)))


class WithState(Net):
    def get_extra_state(self):
        return {"step": 3}

    def set_extra_state(self, state):
        pass


def test_networks_that_cannot_be_trained_or_kept_are_told():
    check_trainable(Net())
    with pytest.raises(ValueError, match=r"all its parameters are frozen.*requires_grad"):
        check_trainable(Net().requires_grad_(False))
    with pytest.raises(ValueError, match=r"_extra_state is a dict.*buffer in place of"):
        check_trainable(WithState())
