"""Channel groups of a network and its cost as a function of their widths.

One multiply-add is one MAC. Costs are those of the *deploy form*: convolutions and linear layers
after reparameterization, since that is what runs in production. The same formula takes integers
(reports) and 0-d tensors (the differentiable budget loss), so the two cannot drift apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

Width = TypeVar("Width", int, Tensor)

RESOURCES = ("macs", "num_params")
"""Resources a budget can limit."""


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Channels that are kept or dropped together.

    Example: the group ``stages.1.0`` of a RepVGG network has the block ``stages.1.0`` as its
    producer (it writes the channels) and ``stages.1.1`` as its consumer (it reads them).

    Attributes:
        name: unique name, that of its first producer.
        size: number of channels in the supernet.
        producers: modules that write the channels.
        consumers: modules that read them.
    """

    name: str
    size: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution or linear layer of the deploy form.

    Attributes:
        module: name of the module it comes from.
        in_group, out_group: groups of its channels; ``None`` where the channels are fixed.
        in_channels, out_channels: channels in the supernet.
        kernel_area: taps per input channel (9 for 3x3, 1 for linear).
        output_positions: height times width of the output (1 for linear).
        bias: whether a bias is added (one parameter per output channel, no MACs).
    """

    module: str
    in_group: str | None
    out_group: str | None
    in_channels: int
    out_channels: int
    kernel_area: int
    output_positions: int
    bias: bool

    def macs(self, c_in: Width, c_out: Width) -> Width:
        """Multiply-adds for one image with ``c_in`` read and ``c_out`` written channels."""
        return c_in * c_out * (self.kernel_area * self.output_positions)

    def num_params(self, c_in: Width, c_out: Width) -> Width:
        """Weights and biases with ``c_in`` read and ``c_out`` written channels."""
        return c_in * c_out * self.kernel_area + c_out * int(self.bias)


@dataclass(frozen=True, slots=True)
class UnsupportedOp:
    """An operation the tracer does not know.

    What it touches keeps all its channels, and what it costs is not counted.
    """

    module: str
    reason: str


class ChannelGraph:
    """Channel groups of one network. Refers to modules by name, so it serves every copy of it.

    Attributes:
        groups: the searchable groups, in order of execution.
        layers: the layers that cost something, in order of execution.
    """

    def __init__(
        self,
        groups: tuple[ChannelGroup, ...],
        layers: tuple[Layer, ...],
        unsupported: tuple[UnsupportedOp, ...] = (),
    ) -> None:
        self.groups = groups
        self.layers = layers
        self._unsupported = unsupported
        self._sizes = {group.name: group.size for group in groups}

    def count_macs(self, widths: Mapping[str, Width] | None = None) -> Width:
        """MACs of one forward pass of one image in deploy form.

        Args:
            widths: open channels by group, integers or 0-d tensors; missing groups are full.
        """
        return self._count("macs", widths or {})

    def count_params(self, widths: Mapping[str, Width] | None = None) -> Width:
        """Parameters in deploy form; arguments as :meth:`count_macs`."""
        return self._count("num_params", widths or {})

    def count(self, resource: str, widths: Mapping[str, Width] | None = None) -> Width:
        """Cost in one of :data:`RESOURCES`; arguments as :meth:`count_macs`.

        Raises:
            ValueError: unknown resource.
        """
        if resource not in RESOURCES:
            raise ValueError(f"unknown resource {resource!r}; known: {', '.join(RESOURCES)}")
        return self._count(resource, widths or {})

    def unsupported_ops(self) -> tuple[UnsupportedOp, ...]:
        """Operations that forced channels to stay; empty if everything was understood."""
        return self._unsupported

    def full_widths(self) -> dict[str, int]:
        """Width of every group in the supernet."""
        return dict(self._sizes)

    def uniform_widths(self, resource: str, limit: int) -> dict[str, int]:
        """Widths of one common share per group, as large as ``limit`` allows.

        Raises:
            ValueError: not even one channel per group fits.
        """
        steps = sorted({c / size for size in self._sizes.values() for c in range(1, size + 1)})
        best: dict[str, int] | None = None
        for share in steps:
            widths = {n: max(1, math.floor(share * s + 1e-9)) for n, s in self._sizes.items()}
            if self.count(resource, widths) > limit:
                break
            best = widths
        if best is None:
            raise ValueError(f"no uniform network has {resource} <= {limit}")
        return best

    def _count(self, resource: str, widths: Mapping[str, Width]) -> Width:
        total: Width | int = 0
        for layer in self.layers:
            c_in = self._width(layer.in_group, layer.in_channels, widths)
            c_out = self._width(layer.out_group, layer.out_channels, widths)
            cost = layer.macs if resource == "macs" else layer.num_params
            total = total + cost(c_in, c_out)  # type: ignore[type-var]
        return total  # type: ignore[return-value]

    @staticmethod
    def _width(group: str | None, full: int, widths: Mapping[str, Width]) -> Width | int:
        return full if group is None else widths.get(group, full)
