"""Trials that ran out of memory: told apart from other errors, and tried again in smaller parts."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import gc

import torch

from orchestrator.cells import TrialJob

_WORDS = ("out of memory", "t allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")
"""How allocators (can't, cannot allocate) and NVIDIA's libraries say so in a RuntimeError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the host or of a GPU, was not enough."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def in_smaller_parts(job: TrialJob) -> TrialJob | None:
    """Return the job with twice as many micro-batches; ``None`` if parts would get too small.

    It starts anew: what was trained before saw other batch-norm statistics.
    """
    recipe = job.trial.optimizer
    try:
        smaller = dataclasses.replace(recipe, micro_batches=2 * recipe.micro_batches)
    except ValueError:
        return None
    return job.with_trial(dataclasses.replace(job.trial, optimizer=smaller))


@functools.cache
def keep_imports_out_of_gc() -> None:
    """Let collections leave alone what a worker has imported: half a second each, else.

    Until the process ends: bindings that are not collected then complain of leaks.
    """
    gc.collect()
    gc.freeze()
    atexit.unregister(gc.unfreeze)
    atexit.register(gc.unfreeze)


def free_memory() -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
