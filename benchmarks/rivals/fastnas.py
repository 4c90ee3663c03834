"""Widths by FastNAS of the ``nvidia-modelopt`` package.

It measures how much the score drops when one layer alone is narrowed, then takes in every layer
the narrowest width whose drop stays below one common threshold, which it bisects onto the limit.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn

from pas_trainer import reparameterize
from search_space import Budget, ChannelGraph, WidthRules, fit_widths

_SHARES = tuple(k / 16 for k in range(1, 17))
_RULES = {
    "nn.Conv2d": {"*": {"channels_ratio": _SHARES, "channel_divisor": 1, "kernel_size": ()}},
    "nn.BatchNorm2d": {"*": {"features_ratio": _SHARES, "feature_divisor": 1}},
}


def fastnas_widths(
    network: nn.Module,
    graph: ChannelGraph,
    budget: Budget,
    rules: WidthRules,
    batches: Sequence[tuple[Tensor, Tensor]],
    score: Callable[[nn.Module], float],
) -> dict[str, int]:
    """Return widths on the budget: what the package chose, moved as little as possible.

    Args:
        network: the trained supernet; its deploy form is searched.
        graph: its channel graph.
        budget: limit on MACs, a share.
        rules: floors and divisors.
        batches: images and labels that batch-norm statistics are gathered on.
        score: accuracy of a network, higher is better.
    """
    from modelopt.torch import prune

    share = budget.absolute(graph) / graph.count_macs()
    config = {"data_loader": batches, "score_func": score, "checkpoint": None, "verbose": False}
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        pruned, _ = prune.prune(
            reparameterize(network),
            mode=[("fastnas", _RULES)],
            constraints={"flops": f"{100 * share}%"},
            dummy_input=batches[0][0][:1],
            config=config,
        )
    widths = {}
    for group in graph.groups:
        layers = [
            module
            for name, module in pruned.named_modules()
            if isinstance(module, nn.Conv2d)
            and any(name in (producer, f"{producer}.conv") for producer in group.producers)
        ]
        widths[group.name] = layers[0].out_channels
    return fit_widths(graph, budget, rules, widths, {})
