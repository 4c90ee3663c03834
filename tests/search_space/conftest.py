import functools
from collections.abc import Callable

import pytest
import torch

from search_space import REPVGG_VARIANTS, ChannelGraph, build_supernet, trace_channels

GraphOf = Callable[..., ChannelGraph]


@functools.cache
def _graph_of(name: str, num_classes: int = 10, image_size: int | None = None) -> ChannelGraph:
    size = image_size or REPVGG_VARIANTS[name].image_size
    with torch.device("meta"):
        model = build_supernet(name, num_classes)
    return trace_channels(model, torch.empty(1, 3, size, size))


@pytest.fixture(scope="session")
def graph_of() -> GraphOf:
    """Channel graph of a supernet by name, number of classes and image size; cached."""
    return _graph_of
