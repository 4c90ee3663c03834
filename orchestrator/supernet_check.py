"""Checks of a sweep's supernet before any compute is spent: shapes only, on the meta device."""

from __future__ import annotations

import torch
from torch import nn

from orchestrator.errors import UserError
from pas_trainer import (
    WeightsError,
    fit_weights,
    logits_of,
    read_weights,
    trace_supernet,
    weights_identity,
)
from pas_trainer.data.sources import Sources
from search_space import ChannelGraph, SupernetConfig, build_supernet_on_meta


def supernet_and_graph(config: SupernetConfig, sources: Sources) -> tuple[nn.Module, ChannelGraph]:
    """Build the supernet on the meta device, trace it, and check what it returns.

    Raises:
        UserError: it cannot be built or searched, or does not return one logit per class.
    """
    shape = (sources.channels, sources.image_size, sources.image_size)
    num_classes = len(sources.classes)
    try:
        supernet = build_supernet_on_meta(
            config.name, num_classes, sources.channels, **config.options
        )
        graph = trace_supernet(supernet, shape, scope=config.scope, pinned=config.pinned)
        _check_logits(supernet.eval(), shape, num_classes)
    except ValueError as error:
        raise UserError(f"supernet: {str(error).removeprefix('supernet ')}") from None
    return supernet, graph


def _check_logits(network: nn.Module, shape: tuple[int, int, int], num_classes: int) -> None:
    """Check that a batch of images gives one logit per class."""
    try:
        with torch.no_grad(), torch.device("meta"):
            output = network(torch.empty((2, *shape)))
    except Exception as error:  # a network's own code can raise anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"images of shape {shape} do not pass through {type(network).__name__} ({reason}); "
            "set data.image_size to what it needs"
        ) from error
    logits = logits_of(output)
    if tuple(logits.shape) != (2, num_classes):
        raise ValueError(
            f"{type(network).__name__} returns shape {tuple(logits.shape)} for 2 images; it must "
            f"return one logit for each of the {num_classes} classes"
        )


def check_weights(
    config: SupernetConfig, supernet: nn.Module, num_classes: int
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
        return fit_weights(config, state, supernet, num_classes), weights_identity(config)
    except WeightsError as error:
        raise UserError(f"supernet: {str(error).removeprefix('supernet ')}") from None


def layout(network: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    """Return names and shapes of all tensors: the code behind a name may change."""
    return [(name, tuple(tensor.shape)) for name, tensor in network.state_dict().items()]
