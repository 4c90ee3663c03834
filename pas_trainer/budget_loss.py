"""The regulariser that pulls a gated network's cost to its budget, and the exact landing."""

from __future__ import annotations

import torch
from torch import Tensor

from pas_trainer.gates import GatedNetwork
from search_space import Budget, WidthRules, fit_widths


def budget_loss(cost: Tensor, limit: float, full: int) -> Tensor:
    """Squared distance of the cost from its limit, both as shares of the supernet's cost.

    The paper's ``(R(b) - R_target)^2`` with R in units of the whole supernet, so that a strength
    means the same on every network. Two-sided: it also lets channels grow back.

    Args:
        cost: 0-d tensor, current cost.
        limit: where it should be, same unit.
        full: the supernet's cost, same unit.
    """
    return ((cost - limit) / full) ** 2


def annealed_limit(progress: float, limit: int, full: int, anneal: float) -> float:
    """Limit of this moment: from the full cost straight down to ``limit``, then constant.

    Args:
        progress: share of the search that is done, in [0, 1].
        limit: the final limit.
        full: the supernet's cost.
        anneal: share of the search after which the limit is final; 0 means from the start.
    """
    if progress >= anneal:
        return float(limit)
    return full + (limit - full) * progress / anneal


@torch.no_grad()
def project_onto_budget(gated: GatedNetwork, budget: Budget, rules: WidthRules) -> dict[str, int]:
    """Open and close the fewest gates, by score, so that the cost is in [0.97, 1.00] of the limit.

    Within a group the channels with the highest scores stay; see :func:`search_space.fit_widths`
    for the choice between groups. Changes the scores of ``gated`` only where a gate moves.

    Returns:
        Open channels by group.

    Raises:
        ValueError: no network of the search space meets the budget.
    """
    order = {n: g.scores.argsort(descending=True, stable=True) for n, g in gated.gates.items()}
    unit_scores = {
        name: gate.scores[order[name]].view(-1, rules.unit(len(gate.scores))).mean(1).tolist()
        for name, gate in gated.gates.items()
    }
    start = {name: int(gate.open_mask().sum()) for name, gate in gated.gates.items()}
    widths = fit_widths(gated.graph, budget, rules, start, unit_scores)
    for name, gate in gated.gates.items():
        mask = torch.zeros_like(gate.scores, dtype=torch.bool)
        mask[order[name][: widths[name]]] = True
        gate.set_open(mask)
    return widths
