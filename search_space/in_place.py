"""Operations that change a tensor instead of making one."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from search_space.draft import Call


def written_in_part(call: Call) -> list[fx.Node]:
    """Views of a tensor that is changed in place in part, if another one sees it and is used later.

    All of them: one that had to be selected anew in a sliced network would be a copy.
    """
    node = call.node
    if not call.inputs or not is_in_place(node, call.module):
        return []
    changed = call.first[1]
    storage = changed.untyped_storage()
    if storage.nbytes() == changed.numel() * changed.element_size():
        return []
    nodes = list(node.graph.nodes)
    earlier, later = nodes[: nodes.index(node)], set(nodes[nodes.index(node) + 1 :])
    views = [
        other
        for other in earlier
        if isinstance(value := other.meta["value"], Tensor)
        and value.untyped_storage()._cdata == storage._cdata
    ]
    is_seen = any(
        other.meta["value"] is not changed
        and any(user in later for user in other.users)
        and _overlap(other.meta["value"], changed)
        for other in views
    )
    return views if is_seen else []


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two views of the same memory have elements in common."""
    is_seen = torch.zeros(a.untyped_storage().nbytes() // a.element_size(), dtype=torch.bool)
    torch.as_strided(is_seen, a.shape, a.stride(), a.storage_offset()).fill_(True)
    return bool(torch.as_strided(is_seen, b.shape, b.stride(), b.storage_offset()).any())


def is_in_place(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether an operation changes its first argument, so that its result need not be used."""
    name = str(getattr(node.target, "__name__", node.target))
    if name.endswith("_") or name in {"iadd", "imul", "isub", "itruediv"}:
        return node.op.startswith("call_")
    given = node.args[1] if len(node.args) > 1 else node.kwargs.get("inplace")
    return bool(getattr(module, "inplace", given is True))
