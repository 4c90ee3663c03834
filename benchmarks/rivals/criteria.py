"""Scores per channel by the ``torch-pruning`` package, on the groups of our channel graph.

Global pruning as that package does it: every group's scores are divided by their mean, then all
channels compete. The budget is met as in a PaS trial, by :func:`search_space.fit_widths`.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from search_space import Budget, ChannelGraph, ReparamBlock, WidthRules, fit_widths

CRITERIA = {
    "l1": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=1),
    "bn_scale": torch_pruning.importance.BNScaleImportance,
    "taylor": torch_pruning.importance.GroupTaylorImportance,
}


def mean_scores(
    criterion: str, network: nn.Module, graph: ChannelGraph, losses: Iterable[Tensor], image: Tensor
) -> dict[str, Tensor]:
    """Return scores (size,) by group, higher is better, averaged over the gradients of losses.

    Args:
        criterion: one of :data:`CRITERIA`.
        network: the trained supernet.
        graph: its channel graph.
        losses: of some training batches each; only ``taylor`` looks at them.
        image: example input (1, C, H, W), on the network's device.
    """
    importance = CRITERIA[criterion]()
    groups = _groups(network, graph, image)
    totals = {name: torch.zeros(g.size) for name, g in zip(groups, graph.groups, strict=True)}
    for loss in losses if criterion == "taylor" else [image.new_zeros(())]:
        network.zero_grad()
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        for name, group in groups.items():
            totals[name] += importance(group).detach().cpu()
    network.zero_grad()
    return totals


def _groups(network: nn.Module, graph: ChannelGraph, image: Tensor) -> dict[str, Any]:
    """Return torch-pruning's group for each of ours."""
    network.eval()
    names = {id(module): name for name, module in network.named_modules()}
    linear = [m for m in network.modules() if isinstance(m, nn.Linear)]
    found: dict[str, Any] = {}
    with _without_identities(network):
        dependencies = torch_pruning.DependencyGraph().build_dependency(network, image)
        for group in dependencies.get_all_groups(
            ignored_layers=linear, root_module_types=[nn.Conv2d]
        ):
            written = {
                names[id(dep.target.module)]
                for dep, _ in group
                if dependencies.is_out_channel_pruning_fn(dep.handler)
                and isinstance(dep.target.module, nn.Conv2d)
            }
            ours = [g.name for g in graph.groups if _writes(g.producers, written)]
            if len(ours) != 1:
                raise ValueError(f"torch-pruning's group {sorted(written)} is not one of ours")
            found[ours[0]] = group
    return {group.name: found[group.name] for group in graph.groups}


def _writes(producers: tuple[str, ...], written: set[str]) -> bool:
    return any(w == p or w.startswith(f"{p}.") for p in producers for w in written)


@contextlib.contextmanager
def _without_identities(network: nn.Module) -> Iterator[None]:
    """Leave the identity branches of RepVGG blocks out, so that no two layers are tied by them."""
    blocks = [m for m in network.modules() if isinstance(m, ReparamBlock)]
    norms = [block.norm_identity for block in blocks]
    try:
        for block in blocks:
            block.norm_identity = None
        yield
    finally:
        for block, norm in zip(blocks, norms, strict=True):
            block.norm_identity = norm


def globally(
    graph: ChannelGraph, budget: Budget, rules: WidthRules, scores: dict[str, Tensor]
) -> dict[str, list[int]]:
    """Return the channels that stay when those with the lowest scores go, wherever they are."""
    ordered = {
        name: values.sort(descending=True).values.tolist() for name, values in scores.items()
    }
    widths = fit_widths(graph, budget, rules, graph.full_widths(), ordered)
    return best_channels(scores, widths)


def best_channels(scores: dict[str, Tensor], widths: dict[str, int]) -> dict[str, list[int]]:
    """Return the channels with the highest scores of each group, ascending."""
    order = {n: v.argsort(descending=True, stable=True).tolist() for n, v in scores.items()}
    return {name: sorted(order[name][:width]) for name, width in widths.items()}


def random_widths(
    graph: ChannelGraph, budget: Budget, rules: WidthRules, seed: int
) -> dict[str, int]:
    """Return widths whose shares are drawn log-uniformly from [1/8, 1], moved onto the budget."""
    draw = random.Random(seed)  # noqa: S311
    shares = {g.name: 8 ** -draw.random() for g in graph.groups}
    start = {g.name: max(1, round(g.size * shares[g.name])) for g in graph.groups}
    # Each block is worth its group's share, so that what the landing moves follows the draw.
    scores = {g.name: [shares[g.name] - k / g.size for k in range(g.size)] for g in graph.groups}
    return fit_widths(graph, budget, rules, start, scores)
