"""What attached gates cost: a training step with gates over the same step without, side by side.

Four networks train on the same random images: the plain one; ours, whose gates scale the weights
that read a channel; the one with a depth-wise 1x1 convolution of binarised weights after every
activation, as the paper's authors released it (Li et al., IJCAI 2022); and one that multiplies
activations by a broadcast mask instead. A step is forward, backward and SGD; with gates it
includes the cost in MACs and the budget loss on it. The networks take turns step by step, so that
whatever else the machine does hits all of them; the ratio to the plain step is formed within each
round. One CPU thread is timed by its CPU time, anything else by the clock.

    python benchmarks/gates.py
    python benchmarks/gates.py --device cuda --batch-size 256 --image-size 224
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision
from in_turns import clock_of, quartiles_of_ratio, time_in_turns
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from pas_trainer import GatedNetwork, OptimizerConfig, attach_gates, budget_loss
from pas_trainer.devices import autocast
from pas_trainer.optim import build_optimizer
from search_space import RepVGGBlock, build_supernet, trace_channels

RESULTS = Path(__file__).parent / "results" / "gates.json"
GOAL = 1.03
"""Largest ratio of a step with our gates to a plain one."""


def main() -> None:
    """Measure, print a table, write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["resnet18", "repvgg_a0"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--steps", type=int, default=1, help="of each network in each round")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console, results = Console(), []
    for name in options.networks:
        found = measure(name, options)
        results.append(found)
        console.print(_table(found))
        ratio = found["variants"]["reader gates"]["ratio"]
        console.print(
            f"goal for reader gates: at most {GOAL}, {'met' if ratio <= GOAL else 'missed'}\n"
        )
    document = {"torch": torch.__version__, "device": options.device, "results": results}
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(document, indent=1) + "\n")


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Time all variants of one network in turns."""
    device = torch.device(options.device)
    size = (options.batch_size, 3, options.image_size, options.image_size)
    images = torch.rand(size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (options.batch_size,), device=device)
    steps = {
        label: _training_step(network.to(device), images, labels)
        for label, network in _variants(name, options.image_size).items()
    }
    clock = clock_of(device, options.threads)
    seconds = time_in_turns(steps, options.rounds, clock, options.steps)
    return {
        "network": name,
        "image_size": options.image_size,
        "batch_size": options.batch_size,
        "threads": options.threads,
        "rounds": options.rounds,
        "variants": {label: _summary(times, seconds["plain"]) for label, times in seconds.items()},
    }


def _summary(times: list[float], plain: list[float]) -> dict[str, float]:
    low, middle, high = quartiles_of_ratio(times, plain)
    return {
        "step_ms": statistics.median(times) * 1e3,
        "ratio": middle,
        "ratio_quartile_low": low,
        "ratio_quartile_high": high,
    }


def _variants(name: str, image_size: int) -> dict[str, nn.Module]:
    def build() -> nn.Module:
        torch.manual_seed(0)
        if name.startswith("repvgg"):
            return build_supernet(name, 1000)
        network: nn.Module = torchvision.models.get_model(name, weights=None)
        return network

    example = torch.empty(1, 3, image_size, image_size)
    return {
        "plain": build(),
        "reader gates": attach_gates(build(), trace_channels(build(), example)),
        "depth-wise convolution": ActivationGates(build(), example, DepthwiseGate),
        "broadcast product": ActivationGates(build(), example, BroadcastGate),
    }


def _training_step(network: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    network = network.to(memory_format=torch.channels_last).train()
    optimizer = build_optimizer(network, OptimizerConfig(), learning_rate=0.01)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(images.device):
            loss = F.cross_entropy(network(images), labels)
        if isinstance(network, GatedNetwork):
            cost, full = network.cost("macs"), network.graph.count_macs()
            loss = loss + _regulariser(cost, full).to(loss.dtype)
        elif isinstance(network, ActivationGates):
            loss = loss + _regulariser(*network.cost()).to(loss.dtype)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _regulariser(cost: Tensor, full: float) -> Tensor:
    return budget_loss({"macs": cost}, {"macs": full / 2}, {"macs": full}, "macs")


class DepthwiseGate(nn.Module):
    """The released form: a depth-wise convolution with weights 1[w > 0.5], straight through."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1, 1))

    def binary(self) -> Tensor:
        """Return the weights as 0 and 1 with the gradient of the scores."""
        return (self.weight > 0.5).to(self.weight.dtype) + self.weight - self.weight.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Return x (N, C, H, W) times its gate."""
        return F.conv2d(x, self.binary(), groups=x.shape[1])


class BroadcastGate(DepthwiseGate):
    """The same function as a product."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x (N, C, H, W) times its gate."""
        return x * self.binary().view(1, -1, 1, 1)


class ActivationGates(nn.Module):
    """A network with a gate after every activation (ReLU, or block that ends in one).

    The cost stands for the paper's sum over layers: products of consecutive open counts.
    """

    def __init__(
        self, network: nn.Module, example: Tensor, kind: Callable[[int], DepthwiseGate]
    ) -> None:
        super().__init__()
        self.network = network
        channels: list[int] = []
        activations = [m for m in network.modules() if isinstance(m, nn.ReLU | RepVGGBlock)]
        hooks = [
            m.register_forward_hook(lambda _m, _args, y: channels.append(y.shape[1]))
            for m in activations
        ]
        with torch.no_grad():
            network.eval()(example)
        for hook in hooks:
            hook.remove()
        self.gates = nn.ModuleList([kind(count) for count in channels])
        self._turn: Iterator[nn.Module] = iter(())
        for m in activations:
            m.register_forward_hook(lambda _m, _args, y: next(self._turn)(y))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        self._turn = iter(self.gates)
        logits: Tensor = self.network(x)
        return logits

    def cost(self) -> tuple[Tensor, float]:
        """Return the cost at the current gates and that of the whole network."""
        gates = [gate for gate in self.gates if isinstance(gate, DepthwiseGate)]
        counts = torch.stack([gate.binary().sum() for gate in gates])
        sizes = [float(gate.weight.numel()) for gate in gates]
        full = sum(a * b for a, b in itertools.pairwise(sizes))
        return (counts[1:] * counts[:-1]).sum(), full


def _table(found: dict[str, Any]) -> Table:
    title = (
        f"{found['network']}, {found['image_size']} pixels, batch {found['batch_size']}, "
        f"{found['rounds']} rounds"
    )
    table = Table(title=title, title_justify="left", box=None)
    for column in ("gates", "step ms", "ratio to plain", "quartiles"):
        table.add_column(column, justify="left" if column == "gates" else "right")
    for label, numbers in found["variants"].items():
        spread = f"{numbers['ratio_quartile_low']:.3f} to {numbers['ratio_quartile_high']:.3f}"
        table.add_row(label, f"{numbers['step_ms']:.1f}", f"{numbers['ratio']:.3f}", spread)
    return table


if __name__ == "__main__":
    main()
