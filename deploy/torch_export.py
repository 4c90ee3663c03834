"""A classifier as a ``torch.export`` program, which needs nothing but torch to run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from deploy.eval_mode import inference
from deploy.package import DeployedClassifier
from search_space import Architecture


def example_images(architecture: Architecture) -> Tensor:
    """Return two black images: an export takes a batch of one for a constant."""
    size = architecture.image_size
    return torch.zeros(2, architecture.in_channels, size, size)


def export_program(classifier: DeployedClassifier, architecture: Architecture, path: Path) -> None:
    """Write a program for any batch size, free of this machine's paths.

    Args:
        classifier: on the CPU; its training flags are restored.
        architecture: gives the size of images.
        path: written, in torch's pt2 format.
    """
    batch = torch.export.Dim("batch", min=1)
    with inference(classifier):
        program = torch.export.export(
            classifier, (example_images(architecture),), dynamic_shapes={"images": {0: batch}}
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(program, path)
