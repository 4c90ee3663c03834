"""Several processes that train one trial together, each on its share of every batch.

They are the workers of :mod:`torch.distributed`'s default group; where that is not initialised,
there is one. Gradients are averaged by DDP and batch-norm takes its statistics over all shares,
so that the result is that of one worker at the same batch size, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from pas_trainer.data.batches import Share

T = TypeVar("T")


def num_workers() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if _is_shared() else 1


def worker_rank() -> int:
    """Return which of them this is, from 0; the first one writes what is kept."""
    return distributed.get_rank() if _is_shared() else 0


def own_share() -> Share:
    """Return this worker's share of every batch."""
    return Share(worker_rank(), num_workers())


def is_first() -> bool:
    """Whether this worker writes what is kept."""
    return worker_rank() == 0


def from_first(call: Callable[[], T]) -> T:
    """Call on the first worker, and return or raise on every one what came of it there."""
    if num_workers() == 1:
        return call()
    outcome: list[Any] = [None, None]
    if is_first():
        try:
            outcome[0] = call()
        except Exception as error:
            outcome[1] = error
    distributed.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result


def sum_over_workers(value: Tensor) -> Tensor:
    """Add up a tensor of every worker, in place."""
    if num_workers() > 1:
        distributed.all_reduce(value)
    return value


def data_parallel(model: nn.Module) -> nn.Module:
    """Return ``model``, with gradients that are averaged over the workers where there are several.

    Its parameters and buffers become those of the first worker.
    """
    if num_workers() == 1:
        return model
    # Static: heads that a network does not use in training get no gradient, in no step.
    return DistributedDataParallel(model, broadcast_buffers=False, static_graph=True)


class synced_norms(TorchFunctionMode):  # noqa: N801 - used as a context manager
    """Inside, batch-norm in training takes its statistics over the shares of all workers.

    Unlike :class:`torch.nn.SyncBatchNorm` also on CPUs, and without replacing modules, by whose
    type channels are traced.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Replace batch-norm, leave everything else."""
        if func is F.batch_norm and num_workers() > 1:
            return _synced_batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _synced_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """See :func:`torch.nn.functional.batch_norm`; input (N, C, ...), shares of equal size."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    dims = [dim for dim in range(input.ndim) if dim != 1]
    x = input if input.dtype == torch.float64 else input.float()
    own_variance, own_mean = torch.var_mean(x, dims, correction=0)
    means, variances = _of_every_worker(torch.stack([own_mean, own_variance])).unbind(1)
    mean = means.mean(0)
    variance = (variances + (means - mean).square()).mean(0)
    if running_mean is not None and running_var is not None:
        count = num_workers() * x.numel() / x.shape[1]
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = variance * (count / (count - 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    scale = (variance + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = [-1 if dim == 1 else 1 for dim in range(input.ndim)]
    return torch.addcmul(shift.view(shape), x, scale.view(shape)).to(input.dtype)


def _of_every_worker(own: Tensor) -> Tensor:
    """Return the tensors of all workers, (workers, *shape), differentiable."""
    places = own.new_zeros((num_workers(), *own.shape))
    places[worker_rank()] = own
    gathered: Tensor = all_reduce(places)  # type: ignore[no-untyped-call]
    return gathered


def _is_shared() -> bool:
    return distributed.is_available() and distributed.is_initialized()
