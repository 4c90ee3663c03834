"""Checks of a sweep's task and supernet before any compute is spent, mostly on shapes alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from orchestrator.errors import UserError
from pas_trainer import (
    Indexed,
    Task,
    TaskError,
    WeightsError,
    check_builds_alike,
    check_trainable,
    fit_weights,
    read_weights,
    trace_supernet,
    weights_identity,
)
from search_space import ChannelGraph, SupernetConfig


@contextlib.contextmanager
def task_faults() -> Iterator[None]:
    """Tell what code of the user's own task has failed at as bad input."""
    try:
        yield
    except TaskError as error:
        raise UserError(str(error)) from None


def supernet_and_graph(
    config: SupernetConfig, task: Task, sources: Indexed
) -> tuple[nn.Module, ChannelGraph]:
    """Build the supernet on the meta device, trace it, and check what it returns.

    Raises:
        UserError: it cannot be built or searched, or is no network for the task.
    """
    try:
        supernet = task.build(config.name, config.options, sources, on_meta=True)
        graph = trace_supernet(supernet, task, sources, scope=config.scope, pinned=config.pinned)
        task.check_network(supernet, sources)
        check_trainable(supernet)
    except ValueError as error:
        raise UserError(f"supernet: {str(error).removeprefix('supernet ')}") from None
    return supernet, graph


def check_builder(config: SupernetConfig, task: Task, sources: Indexed) -> None:
    """Check that code of the user's own builds the same network wherever one is needed.

    Takes the time of building the network twice with its weights.

    Raises:
        UserError: it does not.
    """
    if not config.name.startswith("import:"):
        return
    try:
        check_builds_alike(lambda: task.build(config.name, config.options, sources))
    except ValueError as error:
        raise UserError(f"supernet {config.name}: {error}") from None


def check_weights(
    config: SupernetConfig, supernet: nn.Module, num_outputs: int
) -> tuple[tuple[str, ...], str | None]:
    """Return which tensors the supernet's weights do not fit, and what identifies the weights.

    Published weights are not fetched for this.

    Raises:
        UserError: a file cannot be read, or does not fit.
    """
    if config.weights is None:
        return (), None
    try:
        state = read_weights(config, shapes_only=True)
        return fit_weights(config, state, supernet, num_outputs), weights_identity(config)
    except WeightsError as error:
        raise UserError(f"supernet: {str(error).removeprefix('supernet ')}") from None


def layout(network: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    """Return names and shapes of all tensors: the code behind a name may change."""
    return [(name, tuple(tensor.shape)) for name, tensor in network.state_dict().items()]
