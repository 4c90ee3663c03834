"""Peak activation memory against storages that are really alive while the network runs."""

import weakref
from typing import Any

import pytest
import torch
from exactness import slice_at_random
from torch import Tensor, fx, nn
from torch.nn import functional as F

from search_space import trace_channels


class _PeakInterpreter(fx.Interpreter):
    """Runs a network step by step and adds up the storages that anybody still holds."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=True)
        self.peak = 0
        self._storages: dict[int, tuple[Any, int]] = {}
        self._weights = {t.untyped_storage()._cdata for t in module.parameters()}
        self._weights |= {t.untyped_storage()._cdata for t in module.buffers()}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and n.op != "output":
            storage = result.untyped_storage()
            if storage._cdata not in self._weights:
                self._storages[storage._cdata] = (weakref.ref(storage), storage.nbytes())
            del storage
        alive = {
            key: value
            for key, value in self._storages.items()
            if (held := value[0]()) is not None and held._cdata == key
        }
        self._storages = alive
        self.peak = max(self.peak, sum(size for _, size in alive.values()))
        return result


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1, self.conv2 = nn.Conv2d(8, 20, 3, padding=1), nn.Conv2d(20, 8, 1)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.stem(x))
        y = y + self.conv2(F.gelu(self.conv1(y)))
        return self.fc(F.relu(y).mean((2, 3)))


CHAIN = nn.Sequential(
    nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 9, 3, stride=2), nn.BatchNorm2d(9),
    nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(9 * 9, 30), nn.ReLU(), nn.Linear(30, 2),
)  # fmt: skip


def _live_bytes(network: nn.Module, x: Tensor) -> int:
    """The most bytes alive at once, the images included, for one image."""
    interpreter = _PeakInterpreter(fx.symbolic_trace(network))
    with torch.no_grad():
        interpreter.run(x)
    return interpreter.peak


@pytest.mark.parametrize("network", [CHAIN, Residual()], ids=["chain", "residual"])
@pytest.mark.parametrize("seed", range(3))
def test_peak_is_what_is_alive_at_once(network: nn.Module, seed: int) -> None:
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    sliced = slice_at_random(network, x, seed)
    assert sliced.graph.count("activation_bytes") == _live_bytes(network, x)
    compact = _live_bytes(sliced.compact, x)
    assert sliced.graph.count("activation_bytes", sliced.widths) == compact
    assert compact < sliced.graph.count("activation_bytes")


def test_peak_of_a_chain_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 7, 2, 2), nn.Conv2d(7, 2, 1))
    graph = trace_channels(network, torch.empty(4, 3, 8, 8))
    images = 4 * 3 * 64
    assert graph.count("activation_bytes") == images + 4 * (5 * 64 + 7 * 16)
    assert graph.count("activation_bytes", {"0": 1, "1": 7}) == images + 4 * (64 + 7 * 16)
    assert graph.count("activation_bytes", {"0": 1, "1": 1}) == images + 4 * (64 + 16)


def test_views_and_in_place_operations_take_no_memory() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Flatten(), nn.Linear(320, 2))
    in_place = nn.Sequential(plain[0], nn.ReLU(inplace=True), *plain[1:])
    copying = nn.Sequential(plain[0], nn.ReLU(), *plain[1:])
    x = torch.empty(1, 3, 8, 8)
    peaks = [trace_channels(m, x).count("activation_bytes") for m in (plain, in_place, copying)]
    assert peaks == [4 * (192 + 320 + 2), 4 * (192 + 320 + 2), 4 * (192 + 320 + 320)]
