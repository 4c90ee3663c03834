"""The mean of the gates' scores over the end of a search.

Under a hard limit the last scores are those of a moment: whole layers of nearly equal scores open
and close together as the cost swings around its limit, so that chance decides which of them end
open. Over many steps that averages out, and what remains tells channels apart (as averaged iterates
do for weights: Polyak and Juditsky, SIAM J. Control Optim. 1992).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pas_trainer.gates import GatedNetwork


class ScoreMean:
    """Running mean of all scores, of a search from ``begin`` on.

    Args:
        gated: whose scores.
        begin: share of the search after which scores count, in [0, 1].
        device: where the scores are during the search.
    """

    def __init__(self, gated: GatedNetwork, begin: float, device: torch.device) -> None:
        self._gates = list(gated.gates.values())
        self._begin = begin
        num_units = sum(len(gate.scores) for gate in self._gates)
        self._mean = torch.zeros(num_units, dtype=torch.float64, device=device)
        self._count = torch.zeros((), dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, progress: Tensor) -> None:
        """Count the scores of this moment, ``progress`` (0-d, float64) of the search being done.

        Without a decision in Python, so that a CUDA graph may hold it.
        """
        counts = (progress >= self._begin).to(self._count)
        self._count += counts
        scores = torch.cat([gate.scores for gate in self._gates])
        self._mean += (scores - self._mean) * counts / self._count.clamp_min(1)

    @torch.no_grad()
    def settle(self) -> None:
        """Give every gate the mean of its scores, if any were counted."""
        if not self._count:
            return
        sizes = [len(gate.scores) for gate in self._gates]
        for gate, mean in zip(self._gates, torch.split(self._mean, sizes), strict=True):
            gate.scores.copy_(mean)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what is known so far: the tensors themselves, which change with every step."""
        return {"mean": self._mean, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what another one knew."""
        self._mean.copy_(state["mean"])
        self._count.copy_(state["count"])
