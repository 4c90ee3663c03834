"""Rules of the operations with weights: convolutions, linear layers, norms, blocks.

Each works for the module and for the function with the parameters of a module, so that
subclasses with a forward pass of their own are understood through what they call.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from search_space.draft import Call, Draft, DraftBlock, layer_of, owner_of, positions
from search_space.labels import varying_dims
from search_space.reparam import ReparamBlock


def block_rule(draft: Draft, call: Call) -> Any:
    """All branches fold into one kernel, so input and output channels are free of each other."""
    block, name = call.module, call.module_name
    assert isinstance(block, ReparamBlock)
    labels, value = call.first
    read = draft.channels(labels, 1, value.shape[1])
    if name in draft.blocks:
        known = draft.blocks[name]
        draft.labels.tie(known.read, read)
    else:
        written = read if block.depthwise else draft.labels.new((block.out_channels,))
        area = block.kernel_size**2
        known = DraftBlock(name, read, written, area, block.depthwise)
        draft.blocks[name] = known
        for entry in block.read_parameters():
            chosen = read if entry.index is None else read[entry.index]
            draft.block_readers[(f"{name}.{entry.name}", entry.dim)] = (name, chosen)
    if _is_shared(draft, call, block):
        draft.pin(call, "something else uses its weights")
        draft.labels.pin(known.read)
        draft.labels.pin(known.written)
    rows = positions(call.value, block.out_channels) * known.kernel_area
    draft.multiply(name, rows, 1 if block.depthwise else known.read, known.written)
    return known.written.reshape(1, -1, 1, 1)


def _is_shared(draft: Draft, call: Call, block: ReparamBlock) -> bool:
    """Whether weights of a block have another owner too, or are used by themselves."""
    own = f"{call.module_name}."
    used = [f"{call.prefix}{n.target}" for n in call.node.graph.nodes if n.op == "get_attr"]
    borrowed = any(name.startswith(own) for name in used)
    return borrowed or any(map(draft.has_other_owner, block.parameters()))


def _parameter(draft: Draft, call: Call, name: str, position: int) -> str | None:
    """Name of a weight: of the module called, or the parameter handed to the function."""
    if call.module is not None:
        full = f"{call.module_name}.{name}" if call.module_name else name
        return full if draft.tensor(full) is not None else None
    argument = call.arg(position, name)
    if isinstance(argument, fx.Node) and argument.op == "get_attr":
        target = f"{call.prefix}{argument.target}"
        of_block = any(target.startswith(f"{block}.") for block in draft.block_names)
        return target if draft.tensor(target) is not None and not of_block else None
    return None


def _is_given(call: Call, name: str, position: int) -> bool:
    """Whether the weight exists at all, under whatever name."""
    if call.module is not None:
        return getattr(call.module, name, None) is not None
    return call.arg(position, name) is not None


def _conv(draft: Draft, call: Call, labels_of: dict[fx.Node, Any]) -> Any:
    weight = _parameter(draft, call, "weight", 1)
    bias = _parameter(draft, call, "bias", 2)
    if weight is None and call.module is None:
        return _filter(draft, call, labels_of)
    if weight is None or (bias is None and _is_given(call, "bias", 2)):
        return None
    transposed = "ranspose" in call.name
    groups = call.setting("groups", 6, 1)
    labels, value = call.first
    tensor = draft.tensor(weight)
    assert tensor is not None
    dim = value.ndim - (tensor.ndim - 2) - 1
    read = draft.channels(labels, dim, value.shape[dim])
    # How a convolution is sliced does not change with how many of its groups are left.
    whole = (
        owner_of(weight) in draft.shrinking_convs
        if draft.is_check
        else (groups > 1 and groups >= read.numel() // groups)
    )
    if whole:
        a, written = _by_whole_groups(draft, weight, read, int(groups), transposed)
    elif groups == 1:
        a, written = _mix(draft, weight, int(transposed), 1 - int(transposed), read)
    else:
        a, written = _same_in_each_group(draft, weight, read, int(groups), transposed)
    if a is None:
        return None
    if bias is not None:
        draft.labels.tie(draft.axis(bias, 0), written)
    taps = tensor.shape[2:].numel()
    if transposed:
        rows = positions(value, value.shape[dim]) * taps
        other: Tensor | int = tensor.shape[1] if groups > 1 and a is read else draft.axis(weight, 1)
        draft.multiply(layer_of(weight), rows, read, other)
    else:
        rows = positions(call.value, call.value.shape[dim]) * taps
        draft.multiply(layer_of(weight), rows, a, written)
    shape = [1] * call.value.ndim
    shape[dim] = -1
    return written.reshape(shape)


def _filter(draft: Draft, call: Call, labels_of: dict[fx.Node, Any]) -> Any:
    """One kernel for all channels, repeated by the code for as many as there are (blur)."""
    kernel, groups = call.arg(1, "weight"), call.setting("groups", 6, 1)
    labels, value = call.first
    if not isinstance(kernel, fx.Node) or call.arg(2, "bias") is not None:
        return None
    weight = kernel.meta["value"]
    dim = value.ndim - (weight.ndim - 2) - 1
    one_each = groups == value.shape[dim] == weight.shape[0] == call.value.shape[dim]
    if labels_of[kernel].shape[0] > 1 or not one_each:
        return None
    draft.labels.pin(labels_of[kernel])
    read = draft.channels(labels, dim, value.shape[dim])
    rows = positions(call.value, groups) * weight.shape[2:].numel()
    draft.multiply(call.where, rows, 1, read)
    shape = [1] * call.value.ndim
    shape[dim] = -1
    return read.reshape(shape)


def _mix(
    draft: Draft, weight: str, out_dim: int, in_dim: int, read: Tensor
) -> tuple[Tensor, Tensor]:
    """Every output channel reads every input channel."""
    entries = draft.axis(weight, in_dim)
    draft.labels.tie(entries, read)
    draft.readers[draft.key(weight, in_dim)] = layer_of(weight)
    draft.writers.setdefault(draft.key(weight, out_dim), layer_of(weight))
    return entries, draft.axis(weight, out_dim)


def _by_whole_groups(
    draft: Draft, weight: str, read: Tensor, groups: int, transposed: bool
) -> tuple[Tensor | int | None, Tensor]:
    """A group of the convolution goes as a whole; depth-wise, that is one channel."""
    owner = draft.root.get_submodule(owner_of(weight))
    if getattr(owner, "groups", groups) != groups:
        return None, read
    tensor = draft.tensor(weight)
    assert tensor is not None
    per_group = tensor.shape[1] if transposed else tensor.shape[0] // groups
    inputs = read.reshape(groups, -1)
    draft.labels.tie(inputs, inputs[:, :1])
    entries = draft.axis(weight, 0)
    by_group = entries.reshape(groups, -1)
    draft.labels.tie(by_group, inputs[:, :1])
    draft.shrinking_convs.add(owner_of(weight))
    if transposed:
        return read, inputs[:, :1].expand(groups, per_group).reshape(-1)
    return tensor.shape[1], entries


def _same_in_each_group(
    draft: Draft, weight: str, read: Tensor, groups: int, transposed: bool
) -> tuple[Tensor, Tensor]:
    """Every group of the convolution loses the same of its channels."""
    inputs = read.reshape(groups, -1)
    draft.labels.tie(inputs, inputs[:1])
    if transposed:  # weight (in, out / groups, ...)
        entries = draft.axis(weight, 0)
        draft.labels.tie(entries, read)
        draft.readers[draft.key(weight, 0)] = layer_of(weight)
        draft.writers.setdefault(draft.key(weight, 1), layer_of(weight))
        return entries, draft.axis(weight, 1).repeat(groups)
    entries, written = _mix(draft, weight, 0, 1, inputs[0])
    outputs = written.reshape(groups, -1)
    draft.labels.tie(outputs, outputs[:1])
    return entries, written


def _linear(draft: Draft, call: Call, _: dict[fx.Node, Any]) -> Any:
    weight, bias = _parameter(draft, call, "weight", 1), _parameter(draft, call, "bias", 2)
    if weight is None or (bias is None and _is_given(call, "bias", 2)):
        return None
    labels, value = call.first
    read = draft.channels(labels, value.ndim - 1, value.shape[-1])
    entries, written = _mix(draft, weight, 0, 1, read)
    if bias is not None:
        draft.labels.tie(draft.axis(bias, 0), written)
    rows = positions(call.value, call.value.shape[-1])
    draft.multiply(layer_of(weight), rows, entries, written)
    return written.reshape((1,) * (value.ndim - 1) + (-1,))


def _per_channel_norm(draft: Draft, call: Call, _: dict[fx.Node, Any]) -> Any:
    """Batch and instance norm: each channel by itself."""
    labels, value = call.first
    vector = draft.channels(labels, 1, value.shape[1])
    if call.module is not None:
        draft.sized[call.module_name] = vector
    places = {"running_mean": 1, "running_var": 2, "weight": 3, "bias": 4}
    for name, position in places.items():
        if not _is_given(call, name, position):
            continue
        tensor = _parameter(draft, call, name, position)
        if tensor is None:
            return None
        draft.labels.tie(draft.axis(tensor, 0), vector)
    return vector.reshape([1, -1] + [1] * (value.ndim - 2))


def _prelu(draft: Draft, call: Call, _: dict[fx.Node, Any]) -> Any:
    labels, value = call.first
    weight = _parameter(draft, call, "weight", 1)
    if weight is None:
        return None
    slopes = draft.axis(weight, 0)
    if slopes.numel() == 1:
        draft.labels.pin(slopes)
        return labels
    vector = draft.channels(labels, 1, value.shape[1])
    draft.labels.tie(slopes, vector)
    return vector.reshape([1, -1] + [1] * (value.ndim - 2))


def _layer_norm(draft: Draft, call: Call, _: dict[fx.Node, Any]) -> Any:
    """Statistics over the last dimensions; over channels they are taken of the open ones."""
    labels, value = call.first
    given = call.setting("normalized_shape", 1)
    shape = [given] if isinstance(given, int) else list(given)
    normed = set(range(value.ndim - len(shape), value.ndim))
    if not normed & set(varying_dims(labels)):
        return labels
    weight, bias = _parameter(draft, call, "weight", 2), _parameter(draft, call, "bias", 3)
    owner = draft.root.get_submodule(owner_of(weight)) if weight else None
    if len(shape) > 1 or weight is None or not hasattr(owner, "normalized_shape"):
        return None
    vector = draft.channels(labels, value.ndim - 1, value.shape[-1])
    draft.norms[draft.key(weight, 0)] = owner_of(weight)
    for tensor in (weight, bias):
        if tensor is not None:
            draft.labels.tie(draft.axis(tensor, 0), vector)
    return vector.reshape((1,) * (value.ndim - 1) + (-1,))


def _group_norm(draft: Draft, call: Call, _: dict[fx.Node, Any]) -> Any:
    """Statistics over groups of channels; every group keeps the same of its channels."""
    labels, value = call.first
    groups = call.setting("num_groups", 1)
    weight, bias = _parameter(draft, call, "weight", 2), _parameter(draft, call, "bias", 3)
    vector = draft.channels(labels, 1, value.shape[1])
    each_by_itself = groups == len(vector)
    if not each_by_itself:
        if weight is None:
            return None
        by_group = vector.reshape(groups, -1)
        draft.labels.tie(by_group, by_group[:1])
        draft.norms[draft.key(weight, 0)] = owner_of(weight)
    elif weight is None and call.module is not None:
        draft.sized[call.module_name] = vector
    for tensor in (weight, bias):
        if tensor is not None:
            draft.labels.tie(draft.axis(tensor, 0), vector)
    return vector.reshape([1, -1] + [1] * (value.ndim - 2))


_CONVS = [
    f"{n}{d}d" for n in ("conv", "Conv", "conv_transpose", "ConvTranspose") for d in (1, 2, 3)
]
_NORMS = [f"{n}{d}d" for n in ("BatchNorm", "InstanceNorm") for d in (1, 2, 3)]
LAYER_RULES = {
    **dict.fromkeys(_CONVS, _conv),
    **dict.fromkeys(["linear", "Linear"], _linear),
    **dict.fromkeys([*_NORMS, "SyncBatchNorm", "batch_norm", "instance_norm"], _per_channel_norm),
    **dict.fromkeys(["layer_norm", "LayerNorm"], _layer_norm),
    **dict.fromkeys(["group_norm", "GroupNorm"], _group_norm),
    **dict.fromkeys(["prelu", "PReLU"], _prelu),
}
