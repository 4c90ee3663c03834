"""A training step recorded once as a CUDA graph and then launched as a whole.

A host needs milliseconds to launch the hundreds of kernels of a step one by one. A GPU often runs
them in less, and then waits, the longer the more small operations there are, such as those of the
gates. A graph is launched at once (PyTorch's notes on CUDA semantics, "CUDA Graphs", whole-network
capture). What it does is fixed when it is recorded: shapes, and whatever Python decides.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from search_space.fakes import first_line

Gradients = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Takes images, labels and the share of the phase that is done (0-d); returns the loss (0-d) and
leaves new gradients in the parameters."""

_WARMUP_STEPS = 3
_log = logging.getLogger(__name__)


class GraphedStep:
    """Replays what ``gradients`` does, for batches of one shape.

    Args:
        gradients: what to record.
        model: in training mode, on a GPU; its parameters must stay where they are in memory.
        images, labels: a batch of the shape, of whatever content.

    Raises:
        RuntimeError: something in it cannot be recorded, such as a decision that depends on a
            tensor's content.
    """

    def __init__(
        self, gradients: Gradients, model: nn.Module, images: Tensor, labels: Tensor
    ) -> None:
        # Before the search, so that what is kept of it does not count the steps to warm up.
        progress = torch.full((), -1.0, dtype=torch.float64, device=images.device)
        self._inputs = (images, labels, progress)
        buffers = [buffer.clone() for buffer in model.buffers()]
        gc.collect()  # parts of earlier autograd graphs belong to another stream
        stream = torch.cuda.Stream(images.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(images.device))
        try:
            with torch.cuda.stream(stream):
                for _ in range(_WARMUP_STEPS):
                    gradients(*self._inputs)
            torch.cuda.current_stream(images.device).wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=stream):
                self._loss = gradients(*self._inputs)
            self._gradients = [(p, p.grad) for p in model.parameters() if p.grad is not None]
        finally:
            with torch.no_grad():
                for buffer, before in zip(model.buffers(), buffers, strict=True):
                    buffer.copy_(before)  # the statistics of batch-norm

    def __call__(self, images: Tensor, labels: Tensor, progress: Tensor) -> Tensor:
        """Return the loss of a batch, which the next call changes, and leave its gradients."""
        for target, given in zip(self._inputs, (images, labels, progress), strict=True):
            target.copy_(given)
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        self._graph.replay()
        return self._loss


def recorded(gradients: Gradients, model: nn.Module, images: Tensor, labels: Tensor) -> Gradients:
    """Return ``gradients``, recorded if that is possible; if not, the log says why.

    Raises:
        torch.OutOfMemoryError: the GPU is too small.
    """
    try:
        return GraphedStep(gradients, model, images, labels)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        torch.cuda.synchronize(images.device)
        reason = first_line(error)
        _log.warning("steps are launched kernel by kernel, which is slower: %s", reason)
        return gradients
