"""A network as a ``torch.export`` program, which needs nothing but torch to run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from deploy.eval_mode import inference
from search_space import Architecture


def example_images(architecture: Architecture) -> Tensor:
    """Return two black images: an export takes a batch of one for a constant."""
    size = architecture.image_size
    return torch.zeros(2, architecture.in_channels, size, size)


def export_program(network: nn.Module, architecture: Architecture, path: Path) -> None:
    """Write a program for any batch size, free of this machine's paths.

    Args:
        network: as it is shipped, on the CPU; its training flags are restored.
        architecture: gives the size of images.
        path: written, in torch's pt2 format.
    """
    batch = torch.export.Dim("batch", min=1)
    with inference(network):
        program = torch.export.export(
            network, (example_images(architecture),), dynamic_shapes=({0: batch},)
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(program, path)
