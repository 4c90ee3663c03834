import functools
from collections.abc import Callable

import pytest
import torch

from search_space import ChannelGraph, build_supernet, trace_channels

GraphOf = Callable[..., ChannelGraph]

_SIZES = {"repvgg_tiny": 8, "repvgg_small": 32}


@functools.cache
def _graph_of(name: str, num_classes: int = 10, image_size: int | None = None) -> ChannelGraph:
    size = image_size or _SIZES.get(name, 224)
    with torch.device("meta"):
        model = build_supernet(name, num_classes)
    return trace_channels(model, torch.empty(1, 3, size, size))


@pytest.fixture(scope="session")
def graph_of() -> GraphOf:
    """Channel graph of a supernet by name, number of classes and image size; cached."""
    return _graph_of
