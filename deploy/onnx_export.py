"""A classifier as one ONNX file, and as something to call.

``onnx``, ``onnxscript`` and ``onnxruntime`` are an extra of the project: they are imported where
they are used, after :func:`require_onnx` has told of what is missing.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from deploy.eval_mode import inference
from deploy.package import DeployedClassifier
from deploy.torch_export import example_images
from search_space import Architecture

OPSET = 18
"""Of the standard operators; ONNX Runtime reads it from version 1.14 on."""

INPUT, OUTPUT = "images", "logits"
"""Names of the network's input, float32 (N, C, H, W) in [0, 1], and output (N, classes)."""

_NEEDED = ("onnx", "onnxscript", "onnxruntime")


class OnnxMissingError(ImportError):
    """The extra ``onnx`` is not installed."""


def require_onnx(*packages: str) -> None:
    """Check that the packages of the extra (by default all) are installed.

    Raises:
        OnnxMissingError: in one sentence.
    """
    missing = [name for name in packages or _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise OnnxMissingError(
            f"ONNX needs {', '.join(missing)}, not installed here; "
            "pip install 'pas-orchestrator[onnx]'"
        )


def export_onnx(
    classifier: DeployedClassifier,
    architecture: Architecture,
    path: Path,
    metadata: Mapping[str, str],
) -> None:
    """Write one ONNX file for any batch size, free of this machine's paths.

    Args:
        classifier: on the CPU; its training flags are restored.
        architecture: gives the size of images.
        path: written; weights lie inside.
        metadata: of the model, see :func:`describe`.

    Raises:
        OnnxMissingError: the extra is not installed.
    """
    require_onnx("onnx", "onnxscript")
    with inference(classifier):
        program = torch.onnx.export(
            classifier,
            (example_images(architecture),),
            dynamo=True,
            verbose=False,
            dynamic_shapes={"images": {0: "batch"}},
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, which name files of this machine
    program.model.metadata_props.clear()
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=False)


def describe(
    architecture: Architecture, *, model: str, version: int, content_hash: str, resize: str
) -> dict[str, str]:
    """Return what an ONNX file says of itself (``custom_metadata_map`` in ONNX Runtime)."""
    return {
        "classes": json.dumps(list(architecture.classes)),
        "image_size": str(architecture.image_size),
        "channels": str(architecture.in_channels),
        "resize": resize,
        "model": model,
        "version": str(version),
        "content_hash": content_hash,
    }


def onnx_network(path: Path, num_threads: int | None = None) -> Callable[[Tensor], Tensor]:
    """Return an ONNX file as a function from images to logits, on the CPU.

    Args:
        path: the file.
        num_threads: that it may use; ``None``: as torch does.

    Raises:
        OnnxMissingError: ONNX Runtime is not installed.
    """
    require_onnx("onnxruntime")
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = num_threads or torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])

    def logits(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])

    return logits
