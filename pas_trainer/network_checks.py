"""What a network must be like to be trained, kept in files and built again; told before that."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from search_space.fakes import leaves

_Shapes = dict[str, tuple[int, ...]]
_SEEDS = (1, 2)
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def check_trainable(network: nn.Module) -> None:
    """Check that a network has something to train, and nothing that a file cannot hold.

    Args:
        network: may be on the meta device.

    Raises:
        ValueError: naming what is wrong, in one sentence.
    """
    for name, value in network.state_dict().items():
        if not isinstance(value, Tensor):
            raise ValueError(  # noqa: TRY004
                f"{name} is a {type(value).__name__}, which no file of weights holds; keep it in a "
                "buffer in place of get_extra_state"
            )
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(
            "all its parameters are frozen, so nothing can be trained; leave requires_grad true "
            "where the network is to learn"
        )


def check_builds_alike(build: Callable[[], nn.Module]) -> None:
    """Build a network twice from different seeds, and compare what no weights file would mend.

    Files of weights hold parameters and persistent buffers; all else is built anew wherever a
    network is needed. The random state of torch is left as it was.

    Args:
        build: makes the network on the CPU, weights at random.

    Raises:
        ValueError: a tensor has another shape the second time, or one that no file of weights
            holds has other values; one sentence that names it.
    """
    with torch.random.fork_rng(devices=[]):
        (shapes, values), (others, other_values) = (_built(build, seed) for seed in _SEEDS)
    if shapes != others:
        name = next(n for n in [*shapes, *others] if shapes.get(n) != others.get(n))
        found = [shapes.get(name, "none"), others.get(name, "none")]
        raise ValueError(
            f"it is another network each time it is built: the shape of {name} is {found[0]}, "
            f"then {found[1]}; let its layout depend on its options alone"
        )
    for name, value in values.items():
        if name not in other_values or not _equal(value, other_values[name]):
            raise ValueError(
                f"{name} has other values each time the network is built, and is not kept with "
                "its weights; make it a persistent buffer, or draw it with a seed of its own"
            )


def _built(build: Callable[[], nn.Module], seed: int) -> tuple[_Shapes, dict[str, Tensor]]:
    torch.manual_seed(seed)
    network = build()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    return shapes, dict(_not_kept(network))


def _not_kept(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors with values that no file of weights holds, by name."""
    kept = {tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()}
    for path, module in network.named_modules():
        own = {k: v for k, v in vars(module).items() if k not in _OF_EVERY_MODULE}
        buffers = {name: module._buffers[name] for name in module._non_persistent_buffers_set}
        for name, value in {**own, **buffers}.items():
            for tensor in [torch.tensor(value)] if _is_numeric_array(value) else leaves(value):
                if tensor.is_meta or tensor.layout != torch.strided:
                    continue
                if tensor.untyped_storage().data_ptr() not in kept:
                    yield f"{path}.{name}".removeprefix("."), tensor.detach()


def _is_numeric_array(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biufc"


def _equal(first: Tensor, second: Tensor) -> bool:
    alike = (first.shape, first.dtype) == (second.shape, second.dtype)
    return alike and bool(torch.allclose(first, second, rtol=0, atol=0, equal_nan=True))
