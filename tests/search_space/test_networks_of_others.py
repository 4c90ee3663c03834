"""Small networks in the manner of well-known ones: gated and sliced agree, costs are real."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pas_trainer import attach_gates, slice_channels
from search_space import trace_channels


class Between(nn.Module):
    """Two convolutions of 8 channels, something after each, and a head."""

    def __init__(self, middle: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.after_a, self.after_b, self.head = middle(), middle(), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 0.5) -> Tensor:
        x = self.after_a(self.a(x).relu())
        if mask is not None:
            x = x * mask
        return self.head(self.after_b(self.b(x).relu()) * scale)


class Blur(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.rand(1, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel.expand(x.shape[1], -1, -1, -1), groups=x.shape[1])


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shape, self.scale = (8, 1, 1), nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.view(self.shape)


class Halves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        parts = list(x.chunk(2, 1))
        parts.append(parts[0].sigmoid())
        return torch.cat([parts[1], parts[2]], 1)


class Twice(nn.Module):
    """One layer under two names, as ``self.layer1`` and in ``self.stages``."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(8, 8, 1)
        self.stages = nn.ModuleList([self.layer])

    def forward(self, x: Tensor) -> Tensor:
        return self.stages[0](self.layer(x).relu())


class Weights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.ParameterList([torch.rand(8, 8, 1, 1) - 0.5 for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.w:
            x = F.conv2d(x, weight).relu()
        return x


MIDDLES = {
    "reflection pad": lambda: nn.ReflectionPad2d(1),
    "zero pad": lambda: nn.ZeroPad2d(1),
    "blur": Blur,
    "layer scale": LayerScale,
    "list of chunks": Halves,
    "one module, two names": Twice,
    "several weights in one module": Weights,
}


@pytest.mark.parametrize("middle", MIDDLES.values(), ids=MIDDLES.keys())
def test_gated_and_sliced_agree_and_every_channel_is_searchable(
    middle: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    model, images = Between(middle).double().eval(), torch.rand(2, 3, 8, 8).double()
    graph = trace_channels(model, images)
    assert graph.searchable_share() == 1.0
    gated = attach_gates(model, graph).eval()
    for gate in gated.gates.values():
        nn.init.uniform_(gate.scores)
    compact = slice_channels(gated)
    expected = gated(images)
    torch.testing.assert_close(compact(images), expected, rtol=1e-9, atol=1e-12)
    with FlopCounterMode(display=False) as counter:
        compact(images)
    widths = {name: len(units) for name, units in gated.open_channels().items()}
    assert graph.count_macs(widths) * 2 * len(images) == counter.get_total_flops()
    assert graph.count_params(widths) == sum(p.numel() for p in compact.parameters())


@dataclass
class Result:
    logits: Tensor
    features: Tensor


class Returning(Between):
    def forward(self, x: Tensor) -> Result:  # type: ignore[override]
        features = self.b(self.a(x).relu())
        return Result(logits=self.head(features), features=features)


def test_channels_in_a_data_class_stay() -> None:
    graph = trace_channels(Returning(nn.Identity), torch.empty(1, 3, 8, 8))
    assert [group.name for group in graph.groups] == ["a"]


class Assigning(Between):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        x = self.a(x)
        x[:, :4] = 0
        return self.head(x)


class Asking(Between):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.head(self.a(x) / float(x.max()))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (nn.DataParallel(Between(nn.Identity)), r"pass its \.module"),
        (
            nn.Sequential(nn.LazyConv2d(8, 3)),
            "has no shape yet; run the model once on a batch first",
        ),
        (Assigning(nn.Identity), "assigns to a part of a tensor"),
        (Asking(nn.Identity), "depends on the values of a tensor"),
    ],
    ids=["wrapped", "lazy", "assignment", "value"],
)
def test_what_cannot_be_traced_gets_one_sentence(model: nn.Module, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        trace_channels(model, torch.empty(1, 3, 8, 8))
