"""Checks that a gated and a sliced network are the same function, at the promised cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from pas_trainer import GatedNetwork, attach_gates, slice_channels
from search_space import ChannelGraph, trace_channels

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


@dataclass
class Sliced:
    """A network with random statistics and gates closed at random, and what was cut out of it."""

    graph: ChannelGraph
    gated: GatedNetwork
    compact: nn.Module

    @property
    def widths(self) -> dict[str, int]:
        return {name: int(gate.open_mask().sum()) for name, gate in self.gated.gates.items()}


@torch.no_grad()
def randomize(model: nn.Module, generator: torch.Generator) -> None:
    """Give norms random parameters and statistics, and plain parameters random numbers."""
    for module in model.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers()]:
            noise = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
            if name.endswith("running_var"):
                tensor.copy_(noise.square() + 0.5)
            elif name.endswith("running_mean") or (isinstance(module, NORMS) and name == "bias"):
                tensor.copy_(noise * 0.3)
            elif isinstance(module, NORMS) and name == "weight":
                tensor.copy_(noise * 0.3 + 1)


def relative_difference(ours: object, theirs: object) -> float:
    """Largest difference of nested tensors, relative to the largest entry of each."""
    pairs = list(zip(tree_leaves(ours), tree_leaves(theirs), strict=True))
    assert pairs
    assert all(a.shape == b.shape and a.isfinite().all() for a, b in pairs)
    return max(
        float((a.detach() - b.detach()).abs().max() / b.detach().abs().max().clamp_min(1e-6))
        for a, b in pairs
    )


def total(output: object) -> Tensor:
    """A sum over all outputs in which every element has a weight of its own."""
    return sum(
        (v * (torch.arange(v.numel()).view_as(v) % 7 - 2.5)).sum() for v in tree_leaves(output)
    )


def _copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _check_untouched(
    model: nn.Module, before: dict[str, Tensor], modules: dict[str, object]
) -> None:
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(p.grad is None for p in model.parameters())
    assert {name: (type(m), m.training) for name, m in model.named_modules()} == modules


def slice_at_random(
    model: nn.Module,
    x: Tensor,
    seed: int = 0,
    *,
    share: float = 0.5,
    scope: str | Sequence[str] | None = None,
    pinned: Sequence[str] = (),
) -> Sliced:
    """Trace a network, close gates at random and slice it; the network must stay as it is."""
    generator = torch.Generator().manual_seed(seed)
    model.double().eval()
    randomize(model, generator)
    before = _copies(model)
    modules = {name: (type(m), m.training) for name, m in model.named_modules()}
    graph = trace_channels(model, x, scope=scope, pinned=pinned)
    gated = attach_gates(model, graph).double().eval()
    with torch.no_grad():
        for gate in gated.gates.values():
            draws = torch.rand(gate.scores.shape, generator=generator)
            gate.scores.copy_((draws < share).double() * 0.5 + draws * 0.4)
    compact = slice_channels(gated)
    _check_untouched(model, before, modules)
    _check_untouched(gated.network, before, modules)
    return Sliced(graph, gated, compact)


def check_exact(
    sliced: Sliced, x: Tensor, *, training: bool = True, tolerance: float = 1e-9
) -> None:
    """Gated = sliced, for one image and for several, and costs are those of what really runs."""
    graph, gated, compact = sliced.graph, sliced.gated, sliced.compact
    with torch.no_grad():
        expected, got = gated(x), compact(x)
        assert relative_difference(got, expected) < tolerance
        for ours in (gated, compact):
            one = tree_map(lambda v: v[:1], ours(x))
            assert relative_difference(ours(x[:1]), one) < tolerance
    for widths, network in (({}, gated.network), (sliced.widths, compact)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(x[:1])
        assert counter.get_total_flops() == 2 * graph.count_macs(widths)
        assert sum(p.numel() for p in network.parameters()) == graph.count_params(widths)
    if training:
        gated.train()
        compact.train()
        assert relative_difference(compact(x), gated(x)) < tolerance
        gated.eval()
        compact.eval()


def check_gradients(sliced: Sliced, x: Tensor) -> None:
    """Every closed unit's gate has a gradient, unless opening it changes nothing."""
    gated, compact = sliced.gated, sliced.compact
    masks = {}
    for name, gate in gated.gates.items():
        masks[name] = gate.open_mask().double().requires_grad_()
        gate.register_forward_hook(lambda _gate, _args, _out, name=name: masks[name])
    output = gated(x)
    total(output).backward()
    for name, mask in masks.items():
        gradient = torch.zeros_like(mask) if mask.grad is None else mask.grad
        assert gradient.isfinite().all(), name
        silent = ((gradient == 0) & (mask == 0)).nonzero().flatten()
        if len(silent):
            with torch.no_grad():
                mask[silent] = 1e-6
                assert relative_difference(gated(x), output) < 1e-10, (name, silent)
                mask[silent] = 0
    images = x.clone().requires_grad_()
    total(compact(images)).backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
