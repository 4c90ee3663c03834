"""The regulariser that pulls a gated network's costs to their budget, and the exact landing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pas_trainer.gates import GatedNetwork
from search_space import Budget, WidthRules, fit_widths, widths_toward_uniform


def budget_loss(
    costs: Mapping[str, Tensor],
    limits: Mapping[str, float | Tensor],
    full: Mapping[str, float],
    main: str,
) -> Tensor:
    """Squared distances of the costs from their limits, as shares of the supernet's costs, summed.

    For the main resource the paper's ``(R(b) - R_target)^2`` (Li et al., IJCAI 2022, section 3)
    with R in units of the whole supernet, so that a strength means the same on every network. It
    is two-sided: it also lets channels grow back. Of the other resources only what exceeds the
    limit counts.

    Args:
        costs: current cost by resource, 0-d tensors.
        limits: where each should be, in the same units.
        full: the supernet's costs, in the same units.
        main: the resource whose limit is to be used, not only kept.
    """
    loss = ((costs[main] - limits[main]) / full[main]) ** 2
    for resource, cost in costs.items():
        if resource != main:
            loss = loss + ((cost - limits[resource]) / full[resource]).clamp_min(0) ** 2
    return loss


def annealed_limits(
    progress: Tensor, limits: Mapping[str, float], full: Mapping[str, float], anneal: float
) -> dict[str, Tensor]:
    """Limits of this moment: from the full costs straight down to ``limits``, then constant.

    Args:
        progress: share of the search that is done, in [0, 1], a 0-d float64 tensor.
        limits: the final limits by resource.
        full: the supernet's costs by resource.
        anneal: share of the search after which the limits are final; 0 means from the start.
    """
    left = (1 - progress / anneal).clamp_min(0) if anneal else torch.zeros_like(progress)
    return {r: limit + (full[r] - limit) * left for r, limit in limits.items()}


@torch.no_grad()
def project_onto_budget(
    gated: GatedNetwork,
    budget: Budget,
    rules: WidthRules,
    toward_uniform: float = 0.0,
) -> dict[str, int]:
    """Open and close the fewest gates, by score, so that the budget is met and used.

    Every cost ends within its limit, at least one of them above 0.97 of it. Within a group the
    units with the highest scores stay; see :func:`search_space.fit_widths` for the choice between
    groups. Changes the scores of ``gated`` only where a gate moves.

    Args:
        gated: the network whose gates are moved.
        budget: the limits to meet.
        rules: floors and divisors.
        toward_uniform: how far the widths of the scores are moved toward uniform ones, in [0, 1],
            see :func:`search_space.widths_toward_uniform`.

    Returns:
        Open units by group.

    Raises:
        ValueError: no network of the search space meets the budget.
    """
    gates = gated.gates
    order = {n: g.scores.argsort(descending=True, stable=True) for n, g in gates.items()}
    scores = {
        group.name: _block_means(gates[group.name].scores[order[group.name]], rules.step(group))
        for group in gated.graph.groups
    }
    start = {name: int(gate.open_mask().sum()) for name, gate in gates.items()}
    widths = fit_widths(gated.graph, budget, rules, start, scores)
    if toward_uniform:
        widths = widths_toward_uniform(gated.graph, budget, rules, widths, toward_uniform)
    for name, gate in gates.items():
        mask = torch.zeros_like(gate.scores, dtype=torch.bool)
        mask[order[name][: widths[name]]] = True
        gate.set_open(mask)
    return widths


def _block_means(scores: Tensor, step: int) -> list[float]:
    """Mean of each ``step`` scores; the last block may be smaller."""
    whole = len(scores) // step * step
    means = scores[:whole].view(-1, step).double().mean(1).tolist()
    if whole < len(scores):
        means.append(float(scores[whole:].double().mean()))
    return means
