"""Modules whose own code counts on widths get new code that puts every channel in its place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from exactness import check_exact, check_gradients, slice_at_random
from torch import Tensor, fx, nn

from pas_trainer import slice_channels
from search_space import slice_network, trace_channels


class Stage(nn.Module):
    """Convolution, an operation of the module's own code, convolution."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.a, self.z = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(channels, 4, 1)

    def between(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.z(self.between(self.a(x).relu()))


class Chunk(Stage):
    def between(self, x: Tensor) -> Tensor:
        first, second = torch.chunk(x, 2, dim=1)
        return torch.cat([second, first.tanh()], 1)


class SplitSizes(Stage):
    def between(self, x: Tensor) -> Tensor:
        first, second = x.split([3, 5], dim=1)
        return torch.cat([second, first.tanh(), second], 1)


class Cut(Stage):
    def between(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, 5:], x[:, :2]], dim=1)


class Shuffle(Stage):
    def between(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous()
        return x.view(n, c, h, w)


class Interleave(Stage):
    """Two convolutions' channels in turns, of which a search may leave different numbers."""

    def __init__(self) -> None:
        super().__init__(16)
        self.b = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x), self.b(x)], 1)
        n, c, h, w = y.size()
        return self.z(y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, -1, h, w))


class HardCodedView(Stage):
    def __init__(self) -> None:
        super().__init__()
        self.z = nn.Linear(8 * 16, 4)

    def between(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(x, 2).view(-1, 8 * 16)


NETWORKS = {
    "chunk": (Chunk, 8),
    "split": (SplitSizes, 13),
    "cut": (Cut, 5),
    "shuffle": (Shuffle, 8),
    "interleave": (Interleave, None),
    "view": (HardCodedView, None),
}


def _build(kind: Callable[..., nn.Module], channels: int | None) -> nn.Module:
    torch.manual_seed(0)
    stage = kind() if channels is None else kind(channels)
    tail = [] if kind is HardCodedView else [nn.ReLU(), nn.Conv2d(4, 2, 1)]
    return nn.Sequential(stage, *tail)


@pytest.mark.parametrize(("kind", "channels"), NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_new_code_is_exact_for_every_batch_size(
    kind: Callable[..., nn.Module], channels: int | None, seed: int
) -> None:
    model, x = _build(kind, channels), torch.randn(5, 3, 8, 8, dtype=torch.float64)
    sliced = slice_at_random(model, x, seed)
    assert any(g.name.startswith("0.a") for g in sliced.graph.groups)
    assert sliced.graph.unsupported_ops() == ()
    check_exact(sliced, x)
    check_gradients(sliced, x)


@pytest.mark.parametrize(("kind", "channels"), NETWORKS.values(), ids=NETWORKS)
def test_extreme_widths_are_exact(kind: Callable[..., nn.Module], channels: int | None) -> None:
    """One unit per group, and one group at a time down to one unit: luck does not help."""
    model, x = _build(kind, channels), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    sliced = slice_at_random(model, x, 0)
    gates = sliced.gated.gates
    for closed in [*[[name] for name in gates], list(gates)]:
        with torch.no_grad():
            for name, gate in gates.items():
                gate.scores.fill_(0.0 if name in closed else 1.0)
                gate.scores[-1] = 1.0
            got, expected = slice_channels(sliced.gated)(x), sliced.gated(x)
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


def test_new_code_is_a_module_that_is_stored_and_copied_like_any_other() -> None:
    model, x = _build(Shuffle, 8), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    sliced = slice_at_random(model, x, 3)
    stage = sliced.compact.get_submodule("0")
    assert isinstance(stage, fx.GraphModule)
    assert list(sliced.compact.state_dict()) == list(model.state_dict())
    again = slice_network(model, sliced.graph, sliced.gated.open_channels())
    again.load_state_dict(sliced.compact.state_dict())
    with torch.no_grad():
        assert torch.equal(again(x), sliced.compact(x))


def test_full_width_needs_no_new_order() -> None:
    model, x = _build(Chunk, 8).double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    graph = trace_channels(model, x)
    full = {group.name: range(group.size) for group in graph.groups}
    with torch.no_grad():
        assert torch.equal(slice_network(model, graph, full)(x), model(x))


class _HalvesOfOneWeight(nn.Module):
    """Two results of one weight change places; each channel of one goes with that of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.a, self.b = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)
        self.b.weight, self.b.bias = self.a.weight, self.a.bias
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        halves = torch.cat([self.a(y), self.b(y.relu())], 1)
        swapped = torch.cat(torch.split(halves, 2, dim=1)[::-1], 1)
        return self.last(swapped.mean((2, 3)))


@pytest.mark.parametrize("seed", range(4))
def test_channels_of_one_unit_do_not_change_places(seed: int) -> None:
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    sliced = slice_at_random(_HalvesOfOneWeight(), x, seed)
    assert [group.name for group in sliced.graph.groups] == ["first", "a"]
    check_exact(sliced, x)


class InBlock(SplitSizes):
    """Code that needs a new order, within a block that torch.fx does not record."""

    def __init__(self, block: Callable[[], AbstractContextManager[object]]) -> None:
        super().__init__(13)
        self.block = block

    def between(self, x: Tensor) -> Tensor:
        with self.block():
            y = x.exp()
        return super().between(y)


BLOCKS: list[Callable[[], AbstractContextManager[object]]] = [
    torch.no_grad,
    torch.inference_mode,
    lambda: torch.autocast("cpu", enabled=False),
    lambda: torch.autocast("cpu", enabled=True),
    lambda: torch.autocast("cuda", enabled=False),
]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("is_on", [False, True])
def test_code_with_blocks_that_would_be_lost_stays(
    block: Callable[[], AbstractContextManager[object]], is_on: bool
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), InBlock(block), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.set_grad_enabled(is_on), torch.autocast("cpu", enabled=is_on):
        graph = trace_channels(model, torch.empty(2, 3, 8, 8))
        assert torch.is_grad_enabled() == torch.is_autocast_enabled("cpu") == is_on
    assert graph.layout.relayouts == ()
    assert {"0", "1.z"} == {group.name for group in graph.groups}
    assert [op.module for op in graph.unsupported_ops()] == ["1"]


HOOKS: list[Callable[[nn.Module], object]] = [
    lambda module: module.register_forward_hook(lambda _m, _args, out: out * 2 + 1),
    lambda module: module.register_forward_pre_hook(lambda _m, args: (args[0] + 1,)),
    lambda module: module.register_full_backward_hook(lambda _m, _grads, _out: None),
]


@pytest.mark.parametrize("add_hook", HOOKS)
def test_code_of_a_module_with_hooks_stays(add_hook: Callable[[nn.Module], object]) -> None:
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    network = SplitSizes(13)
    network.z = nn.Sequential(nn.Conv2d(13, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    add_hook(network)
    sliced = slice_at_random(network, x)
    assert set(sliced.widths) == {"z.0"}
    assert sliced.graph.layout.relayouts == ()
    check_exact(sliced, x)


class SaysItsWidth(SplitSizes):
    def between(self, x: Tensor) -> Tensor:
        torch._assert(x.shape[1] == 8, "it must have 8 channels")
        return super().between(x)


def test_code_that_insists_on_a_width_keeps_it() -> None:
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    network = nn.Sequential(SaysItsWidth(13), nn.ReLU(), nn.Conv2d(4, 2, 1))
    sliced = slice_at_random(network, x)
    assert set(sliced.widths) == {"0.z"}
    assert [op.module for op in sliced.graph.unsupported_ops()] == ["0"]
    check_exact(sliced, x)
