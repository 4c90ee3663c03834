"""Trials that ran out of memory: told apart from other errors, and tried again in smaller parts."""

from __future__ import annotations

import dataclasses
import functools
import gc

import torch

from orchestrator.cells import TrialJob
from pas_trainer import AnnealedConfig, ControlConfig, OptimizerConfig, TrialConfig

_WORDS = ("out of memory", "can't allocate memory", "not enough memory")
"""How torch's allocators say so where they raise a plain RuntimeError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the host or of a GPU, was not enough."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def in_smaller_parts(job: TrialJob) -> TrialJob | None:
    """Return the job with twice as many micro-batches; ``None`` if parts would get too small.

    It starts anew: what was trained before saw other batch-norm statistics.
    """
    recipe = trial_of(job).optimizer
    try:
        smaller = dataclasses.replace(recipe, micro_batches=2 * recipe.micro_batches)
    except ValueError:
        return None
    return dataclasses.replace(job, config=_with_recipe(job.config, smaller))


def trial_of(job: TrialJob) -> TrialConfig:
    """Return the trial that a job's configuration holds."""
    return job.config if isinstance(job.config, TrialConfig) else job.config.trial


@functools.cache
def keep_imports_out_of_gc() -> None:
    """Let collections leave alone what a worker has imported: half a second each, else."""
    gc.collect()
    gc.freeze()


def free_memory() -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _with_recipe(
    config: TrialConfig | ControlConfig | AnnealedConfig, recipe: OptimizerConfig
) -> TrialConfig | ControlConfig | AnnealedConfig:
    if isinstance(config, TrialConfig):
        return dataclasses.replace(config, optimizer=recipe)
    trial = dataclasses.replace(config.trial, optimizer=recipe)
    return dataclasses.replace(config, trial=trial)
