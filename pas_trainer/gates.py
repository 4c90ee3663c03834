"""Binary gates over channel groups, trained with a straight-through estimator.

The paper's depth-wise binary convolution multiplies each channel by ``1[score > 0.5]`` and lets
the gradient pass straight through to the score (Li et al., IJCAI 2022, section 3). Multiplying
activations costs a pass over memory per layer, so the gate scales the *weights that read* the
channel instead, which is the same function of the gate for every layer that is linear in its
input. (Where what a layer reads is smaller than its weights, that is scaled; see
:mod:`pas_trainer.gated_reads`.) Whatever lies between a channel and its readers (batch-norm,
activation, sums, depth-wise convolution) keeps channels apart, so a closed one reaches nothing
else. Layer and group norms do mix channels, in their statistics: there the closed ones are left
out of the sums. A closed channel is still computed, hence its gate still has a gradient and can
reopen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pas_trainer.gated_reads import gated_reads, layer_weights
from pas_trainer.masked_norms import masked_norms
from pas_trainer.recomputation import without_recomputation
from search_space import Axis, ChannelGraph, Constant, WidthRules, copy_network

OPEN_ABOVE = 0.5
"""A unit is open where its score is above this."""


class Gate(nn.Module):
    """One score per unit of a channel group.

    Attributes:
        scores: parameter of shape (size,), 1.0 at the start (every unit open).
        lowest: units that stay open whatever the scores: those with the highest ones.
    """

    def __init__(self, size: int, lowest: int = 1) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.ones(size))
        self.lowest = lowest

    def open_mask(self) -> Tensor:
        """Return which units are open: bool of shape (size,), never all False."""
        scores = self.scores.detach()
        mask = scores > OPEN_ABOVE
        mask[scores.argsort(descending=True, stable=True)[: self.lowest]] = True
        return mask

    def forward(self) -> Tensor:
        """Return the mask as 0.0 and 1.0, shape (size,), with the scores' gradient."""
        return _straight_through(self.open_mask(), self.scores)

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
        self.network = copy_network(model)
        self.graph = graph
        self._gates = nn.ModuleDict(
            {_key(g.name): Gate(g.size, rules.lowest(g)) for g in graph.groups}
        )
        self._vector = GateVector([self._gate(group.name) for group in graph.groups])
        self._sizes = [group.size for group in graph.groups]
        # Readers of the same channels share one factor.
        self._readers: list[tuple[_Selection, list[Axis]]] = []
        for axis in graph.layout.readers:
            for selection, axes in self._readers:
                if torch.equal(selection.units, axis.units):
                    axes.append(axis)
                    break
            else:
                self._readers.append((_Selection(axis.units, self._sizes), [axis]))
        self._layers = layer_weights(self.network, graph.layout.readers)
        norms = graph.layout.norms
        self._norms = [(axis.tensor, _Selection(axis.units, self._sizes)) for axis in norms]
        self._names = _names_in_modules(self.network, {a.tensor for a in graph.layout.readers})

    @property
    def gates(self) -> Mapping[str, Gate]:
        """The gates by group name."""
        return {g.name: self._gate(g.name) for g in self.graph.groups}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the network's output with closed channels contributing nothing downstream."""
        gates = self._vector()
        by_group = torch.split(
            gates, self._sizes
        )  # whose gradients are put together in one operation
        scaled: dict[str, Tensor] = {}
        read: dict[int, Tensor] = {}
        for selection, axes in self._readers:
            factor = selection(gates, by_group)
            for axis in axes:
                weight: Tensor = self.network.get_parameter(axis.tensor)
                if axis.tensor in self._layers:
                    read[id(weight)] = factor
                else:
                    weight = scaled.get(axis.tensor, weight)
                    shape = [1] * weight.ndim
                    shape[axis.dim] = -1
                    scaled[axis.tensor] = weight * factor.view(shape)
        every = {name: weight for first, weight in scaled.items() for name in self._names[first]}
        weights = {name: self.network.get_parameter(name) for name, _ in self._norms}
        masks = {id(weights[name]): selection(gates, by_group) for name, selection in self._norms}
        masked = masked_norms(masks) if masks else contextlib.nullcontext()
        with gated_reads(read), masked, without_recomputation():
            return functional_call(self.network, every, args, kwargs, tie_weights=False)

    def cost(self, resource: str) -> Tensor:
        """Cost at the current gates: 0-d float64 tensor, differentiable in the scores."""
        return self.graph.evaluate(resource, self._vector.widths())

    def open_channels(self) -> dict[str, list[int]]:
        """Return the indices of the open units by group, ascending."""
        return {
            name: gate.open_mask().nonzero().flatten().tolist() for name, gate in self.gates.items()
        }

    def _gate(self, name: str) -> Gate:
        gate = self._gates[_key(name)]
        assert isinstance(gate, Gate)
        return gate


class GateVector:
    """The gates of all groups at once, end to end, in few operations whatever their number.

    Args:
        gates: in the order of the groups.
    """

    def __init__(self, gates: Sequence[Gate]) -> None:
        self._gates = list(gates)
        sizes = torch.tensor([gate.scores.numel() for gate in gates])
        columns = torch.arange(int(sizes.max()))
        total = int(sizes.sum())
        # Position of each unit of each group, (groups, largest size); behind the last where none.
        starts = sizes.cumsum(0) - sizes
        positions = torch.where(columns < sizes[:, None], starts[:, None] + columns, total)
        self._positions = Constant(positions)
        self._group = Constant(torch.arange(len(gates)).repeat_interleave(sizes))
        self._lowest = Constant(torch.tensor([gate.lowest for gate in gates]))

    def __call__(self) -> Tensor:
        """Return what :class:`Gate` returns for each, (number of units,)."""
        scores = torch.cat([gate.scores for gate in self._gates])
        mask = scores.detach() > OPEN_ABOVE
        lowest, group = self._lowest.on(scores.device), self._group.on(scores.device)
        num_open = torch.zeros_like(lowest).index_add_(0, group, mask.long())
        # A GPU must not wait for the answer in every step, so there the floor always runs.
        if scores.device.type != "cpu" or bool((num_open < lowest).any()):
            mask = self._with_floor(scores.detach(), mask)
        return _straight_through(mask, scores)

    def widths(self) -> Tensor:
        """Return the open units of each group, float64, differentiable in the scores."""
        values = self().double()
        group = self._group.on(values.device)
        return values.new_zeros(len(self._gates)).index_add(0, group, values)

    def _with_floor(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Open the units with the highest scores of each group, the first of equal ones."""
        positions, lowest = self._positions.on(scores.device), self._lowest.on(scores.device)
        padded = torch.cat([scores, scores.new_full((1,), -torch.inf)])[positions]
        order = padded.argsort(dim=1, descending=True, stable=True)
        ranks = torch.arange(order.shape[1], device=order.device)
        highest = torch.where(ranks < lowest[:, None], positions.gather(1, order), len(scores))
        spare = mask.new_zeros(1)
        return torch.cat([mask, spare]).index_fill(0, highest.flatten(), True)[:-1]


def _straight_through(mask: Tensor, scores: Tensor) -> Tensor:
    return mask.to(scores.dtype) + (scores - scores.detach())


class _Selection:
    """Picks each entry's gate out of all gates; entries that always stay get 1.

    Args:
        units: of the entries, -1 for those that always stay.
        sizes: of the groups.
    """

    def __init__(self, units: Tensor, sizes: Sequence[int]) -> None:
        self.units = units
        self._group: int | None = None
        for group, every in enumerate(torch.split(torch.arange(sum(sizes)), list(sizes))):
            if torch.equal(units, every):
                self._group = group
        self._index = Constant(units + 1)

    def __call__(self, gates: Tensor, by_group: Sequence[Tensor]) -> Tensor:
        """Return the factors (number of entries,) for gates (number of units,)."""
        if self._group is not None:
            return by_group[self._group]
        return torch.cat([gates.new_ones(1), gates])[self._index.on(gates.device)]


def attach_gates(
    model: nn.Module, graph: ChannelGraph, rules: WidthRules | None = None
) -> GatedNetwork:
    """Return a gated copy of ``model``, all gates open; the model is left untouched."""
    return GatedNetwork(model, graph, rules or WidthRules())


def _names_in_modules(network: nn.Module, tensors: set[str]) -> dict[str, list[str]]:
    """Return, for each parameter, one name per module that holds it.

    A module that is registered twice must be named once: ``functional_call`` would swap its
    parameters twice and put back the wrong ones.
    """
    first_names = {id(network.get_parameter(name)): name for name in tensors}
    names: dict[str, list[str]] = {name: [] for name in tensors}
    for path, module in network.named_modules():
        for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(parameter) in first_names:
                names[first_names[id(parameter)]].append(f"{path}.{key}" if path else key)
    return names


_TAKEN = frozenset(dir(nn.ModuleDict()))


def _key(name: str) -> str:
    """Module names must not contain dots, nor be those of a dictionary's methods."""
    key = name.replace(".", "/")
    return f"/{key}" if key in _TAKEN else key
