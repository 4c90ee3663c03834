"""From a network to its channel graph, by symbolic tracing (torch.fx) and shape propagation.

Reparameterizable blocks are leaves with a rule of their own: because all their branches fold into
one kernel, input and output widths are free of each other. Everything else follows from the
operations. An operation without a rule pins the channels that reach it and is reported.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from search_space.channel_graph import ChannelGraph, ChannelGroup, Layer, UnsupportedOp
from search_space.repvgg import DEPLOYED_KERNEL_AREA, PlainBlock, RepVGGBlock

_KEEPS_CHANNELS: tuple[type[nn.Module], ...] = (
    nn.ReLU,
    nn.Identity,
    nn.Dropout,
    nn.AvgPool2d,
    nn.MaxPool2d,
    nn.AdaptiveAvgPool2d,
)
_KEEPS_CHANNELS_FUNCTIONS = {torch.relu, nn.functional.relu}


class _BlockTracer(fx.Tracer):
    """Traces through containers and stops at layers and reparameterizable blocks."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, RepVGGBlock | PlainBlock):
            return True
        return super().is_leaf_module(m, module_qualified_name)


@dataclass
class _Draft:
    """What is known so far; ``group_of`` maps a graph node to the group of its channels."""

    group_of: dict[str, str | None] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    consumers: dict[str, list[str]] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    pinned: set[str] = field(default_factory=set)
    unsupported: list[UnsupportedOp] = field(default_factory=list)
    called: Counter[str] = field(default_factory=Counter)


def trace_channels(
    model: nn.Module, example_inputs: Tensor, *, pinned: Sequence[str] = ()
) -> ChannelGraph:
    """Find the channel groups and costs of a network; the network is left untouched.

    Args:
        model: a network of RepVGG blocks, pooling and linear layers.
        example_inputs: one batch (N, C, H, W); only its shape counts, nothing is computed.
        pinned: names of groups that must keep all their channels.

    Raises:
        ValueError: ``pinned`` names no group, or nothing is searchable.
    """
    module = _traced_on_meta(model, example_inputs)
    draft = _Draft()
    draft.called.update(str(n.target) for n in module.graph.nodes if n.op == "call_module")
    for node in module.graph.nodes:
        _add_node(draft, node, module)
    for name in pinned:
        if name not in draft.sizes:
            raise ValueError(f"pinned group {name!r} does not exist; known: {list(draft.sizes)}")
    free = {n: s for n, s in draft.sizes.items() if n not in draft.pinned and n not in pinned}
    if not free:
        reasons = "; ".join(f"{op.module}: {op.reason}" for op in draft.unsupported)
        reasons = reasons or "all are pinned or are the network's output"
        raise ValueError(f"no channel of {type(model).__name__} is searchable ({reasons})")
    groups = tuple(ChannelGroup(n, s, (n,), tuple(draft.consumers[n])) for n, s in free.items())
    layers = tuple(_with_free_groups(layer, free) for layer in draft.layers)
    return ChannelGraph(groups, layers, tuple(draft.unsupported))


def _traced_on_meta(model: nn.Module, example_inputs: Tensor) -> fx.GraphModule:
    """Trace and annotate each node with its output shape, on the meta device (no compute)."""
    graph = _BlockTracer().trace(model)
    with torch.device("meta"):
        inputs = torch.empty(example_inputs.shape)
    training = {m: m.training for m in model.modules()}
    state = {n: t.to("meta") for n, t in _tensors(model).items()}
    try:
        model.eval()
        module = fx.GraphModule(model, graph)
        with torch.no_grad(), torch.device("meta"):
            _MetaShapeProp(module, state).propagate(inputs)
    finally:
        for submodule, mode in training.items():
            submodule.training = mode
    return module


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


class _MetaShapeProp(ShapeProp):
    """Shape propagation that puts meta tensors in the place of the network's own."""

    def __init__(self, module: fx.GraphModule, state: dict[str, Tensor]) -> None:
        super().__init__(module)
        self._state = state

    def get_attr(self, target, args, kwargs):  # type: ignore[no-untyped-def]
        value = super().get_attr(target, args, kwargs)
        return value.to("meta") if isinstance(value, Tensor) else value

    def call_module(self, target, args, kwargs):  # type: ignore[no-untyped-def]
        prefix = f"{target}."
        own = {n[len(prefix) :]: t for n, t in self._state.items() if n.startswith(prefix)}
        leaf = self.fetch_attr(target)
        return torch.func.functional_call(leaf, own, args, kwargs)


def _add_node(draft: _Draft, node: fx.Node, module: fx.GraphModule) -> None:
    sources = [draft.group_of.get(n.name) for n in node.all_input_nodes]
    source = sources[0] if sources else None
    draft.group_of[node.name] = None
    leaf = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    if node.op == "output":
        draft.pinned.update(s for s in sources if s)
    elif _reused(draft, node, leaf):
        _pin(draft, node, f"{type(leaf).__name__} is called more than once")
    elif isinstance(leaf, RepVGGBlock | PlainBlock):
        _add_block(draft, node, leaf, source)
    elif isinstance(leaf, nn.Linear) and _reads_columns(node):
        _add_linear(draft, str(node.target), leaf, source)
    elif _passes_channels_on(node, leaf):
        draft.group_of[node.name] = source
    elif node.op not in {"placeholder", "get_attr"}:
        _pin(draft, node, f"no channel rule for {type(leaf).__name__ if leaf else node.target}")


def _pin(draft: _Draft, node: fx.Node, reason: str) -> None:
    sources = (draft.group_of.get(n.name) for n in node.all_input_nodes)
    draft.pinned.update(s for s in sources if s)
    draft.unsupported.append(UnsupportedOp(str(node.target), reason))


def _reused(draft: _Draft, node: fx.Node, leaf: nn.Module | None) -> bool:
    """Whether one set of weights reads or writes the channels of several places."""
    has_channels = isinstance(leaf, RepVGGBlock | PlainBlock | nn.Linear)
    return has_channels and draft.called[str(node.target)] > 1


def _reads_columns(node: fx.Node) -> bool:
    """Whether a linear layer's input is (N, C), so that what it mixes are the channels."""
    return len(node.all_input_nodes[0].meta["tensor_meta"].shape) == 2


def _passes_channels_on(node: fx.Node, leaf: nn.Module | None) -> bool:
    """Whether the output has the channels of the (only) input, one to one."""
    if isinstance(leaf, nn.Flatten) or node.target is torch.flatten:
        return _keeps_columns(node)
    return isinstance(leaf, _KEEPS_CHANNELS) or node.target in _KEEPS_CHANNELS_FUNCTIONS


def _keeps_columns(node: fx.Node) -> bool:
    """Whether a flatten maps each channel to exactly one column (1x1 maps)."""
    before = node.all_input_nodes[0].meta["tensor_meta"].shape
    after = node.meta["tensor_meta"].shape
    return len(after) == 2 and before[1] == after[1]


def _add_block(
    draft: _Draft, node: fx.Node, block: RepVGGBlock | PlainBlock, source: str | None
) -> None:
    name, shape = str(node.target), node.meta["tensor_meta"].shape
    if source:
        draft.consumers[source].append(name)
    draft.sizes[name] = block.out_channels
    draft.consumers[name] = []
    draft.group_of[node.name] = name
    draft.layers.append(
        Layer(
            module=name,
            in_group=source,
            out_group=name,
            in_channels=block.in_channels,
            out_channels=block.out_channels,
            kernel_area=DEPLOYED_KERNEL_AREA,
            output_positions=int(shape[2] * shape[3]),
            bias=True,
        )
    )


def _add_linear(draft: _Draft, name: str, linear: nn.Linear, source: str | None) -> None:
    if source:
        draft.consumers[source].append(name)
    draft.layers.append(
        Layer(
            module=name,
            in_group=source,
            out_group=None,
            in_channels=linear.in_features,
            out_channels=linear.out_features,
            kernel_area=1,
            output_positions=1,
            bias=linear.bias is not None,
        )
    )


def _with_free_groups(layer: Layer, free: dict[str, int]) -> Layer:
    """Forget groups that are pinned: their channels are fixed numbers from here on."""
    return dataclasses.replace(
        layer,
        in_group=layer.in_group if layer.in_group in free else None,
        out_group=layer.out_group if layer.out_group in free else None,
    )
