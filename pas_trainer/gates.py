"""Binary gates over channel groups, trained with a straight-through estimator.

The paper's depth-wise binary convolution multiplies each channel by ``1[score > 0.5]`` and lets
the gradient pass straight through to the score (Li et al., IJCAI 2022, section 3). Multiplying
activations costs a pass over memory per block, so the gate scales the *weights that read* the
channel instead, which is the same function of the gate for every layer that is linear in its
input. Batch-norm of the identity branch is linear in its own weight, so there the gate scales
that. A closed channel is still computed, hence its gate still has a gradient and can reopen.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from search_space import ChannelGraph, PlainBlock, RepVGGBlock, WidthRules

OPEN_ABOVE = 0.5
"""A channel is open where its score is above this."""


class Gate(nn.Module):
    """One score per channel of a group.

    Attributes:
        scores: parameter of shape (size,), 1.0 at the start (every channel open).
        lowest: channels that stay open whatever the scores: those with the highest ones.
    """

    def __init__(self, size: int, lowest: int = 1) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.ones(size))
        self.lowest = lowest

    def open_mask(self) -> Tensor:
        """Return which channels are open: bool of shape (size,), never all False."""
        scores = self.scores.detach()
        mask = scores > OPEN_ABOVE
        # No branch on how many are open: that would make a GPU wait in every step.
        mask[scores.argsort(descending=True, stable=True)[: self.lowest]] = True
        return mask

    def forward(self) -> Tensor:
        """Return the mask as 0.0 and 1.0, shape (size,), with the scores' gradient."""
        passed = self.scores - self.scores.detach()
        return self.open_mask().to(passed.dtype) + passed

    @torch.no_grad()
    def set_open(self, mask: Tensor) -> None:
        """Move only the scores that contradict ``mask`` (bool, shape (size,)) to its side."""
        above = self.scores > OPEN_ABOVE
        self.scores[mask & ~above] = OPEN_ABOVE + 0.01
        self.scores[~mask & above] = OPEN_ABOVE - 0.01


class GatedNetwork(nn.Module):
    """A copy of a network whose readers of each channel group are scaled by its gate.

    Same input and output as the network; equal outputs while every gate is open.

    Attributes:
        network: the copied network; its parameters train together with the scores.
        graph: the channel graph the gates belong to.
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph, rules: WidthRules) -> None:
        super().__init__()
        self.network = copy.deepcopy(model)
        self.graph = graph
        self._gates = nn.ModuleDict(
            {_key(g.name): Gate(g.size, rules.lowest(g.size)) for g in graph.groups}
        )

    @property
    def gates(self) -> Mapping[str, Gate]:
        """The gates by group name."""
        return {g.name: self._gate(g.name) for g in self.graph.groups}

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output with closed channels contributing nothing downstream."""
        scaled: dict[str, Tensor] = {}
        for group in self.graph.groups:
            gate = self._gate(group.name)()
            for consumer in group.consumers:
                reader = self.network.get_submodule(consumer)
                for name, factor in _scales(reader, gate):
                    full_name = f"{consumer}.{name}"
                    scaled[full_name] = self.network.get_parameter(full_name) * factor
        output = functional_call(self.network, scaled, (x,), tie_weights=False)
        assert isinstance(output, Tensor)
        return output

    def cost(self, resource: str) -> Tensor:
        """Cost at the current gates: 0-d float64 tensor, differentiable in the scores."""
        widths = {g.name: self._gate(g.name)().double().sum() for g in self.graph.groups}
        cost: Tensor = self.graph.count(resource, widths)
        return cost

    def open_channels(self) -> dict[str, list[int]]:
        """Return the indices of the open channels by group, ascending."""
        return {
            name: gate.open_mask().nonzero().flatten().tolist() for name, gate in self.gates.items()
        }

    def _gate(self, name: str) -> Gate:
        gate = self._gates[_key(name)]
        assert isinstance(gate, Gate)
        return gate


def attach_gates(
    model: nn.Module, graph: ChannelGraph, rules: WidthRules | None = None
) -> GatedNetwork:
    """Return a gated copy of ``model``, all gates open; the model is left untouched."""
    return GatedNetwork(model, graph, rules or WidthRules())


def _scales(reader: nn.Module, gate: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield (parameter name, factor that broadcasts to it) for a module that reads the group."""
    if isinstance(reader, RepVGGBlock):
        yield "conv3x3.weight", gate.view(1, -1, 1, 1)
        yield "conv1x1.weight", gate.view(1, -1, 1, 1)
        if reader.norm_identity is not None:
            yield "norm_identity.weight", gate[reader.identity_in]
    elif isinstance(reader, PlainBlock):
        yield "conv.weight", gate.view(1, -1, 1, 1)
    elif isinstance(reader, nn.Linear):
        yield "weight", gate.view(1, -1)
    else:
        raise TypeError(f"no rule to gate the input of {type(reader).__name__}")


def _key(name: str) -> str:
    """Module names must not contain dots."""
    return name.replace(".", "/")
