"""A network as one ONNX file, and as something to call.

``onnx``, ``onnxscript`` and ``onnxruntime`` are an extra of the project: they are imported where
they are used, after :func:`require_onnx` has told of what is missing.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deploy.eval_mode import inference
from deploy.package import PackageError
from deploy.parity import Form
from deploy.torch_export import example_images
from pas_trainer import task_of
from search_space import Architecture

OPSET = 18
"""Of the standard operators; ONNX Runtime reads it from version 1.14 on."""
IR_VERSION = 8
"""Of the file itself, the newest that ONNX Runtime 1.14 reads; int8 files need 1.18."""

INPUT = "images"
"""Name of a network's input, float32 (N, C, H, W) in [0, 1]; its output has the name of the task's
answers: ``logits`` (N, classes) of a classifier."""

IMAGE, OBJECTS = "image", ("boxes", "labels", "scores", "masks")
"""Names of a detector's input, one image (C, h, w) of any size, and of its outputs."""

_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_ERRORS_ONLY = 3


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
    network: nn.Module,
    architecture: Architecture,
    path: Path,
    metadata: Mapping[str, str],
) -> None:
    """Write one ONNX file, free of this machine's paths; of a detector for one image of any size.

    Args:
        network: as it is shipped, on the CPU; its training flags are restored.
        architecture: names the task, gives the size of images.
        path: written; weights lie inside.
        metadata: of the model, see :func:`describe`.

    Raises:
        OnnxMissingError: the extra is not installed.
    """
    require_onnx("onnx", "onnxscript")
    task = task_of(architecture)
    with inference(network):
        if task.form == "onnx":
            _export_detector(network, architecture, path)
        else:
            _export_program(network, architecture, path, task.answers)
    _set_metadata(path, metadata)


def _export_program(
    network: nn.Module, architecture: Architecture, path: Path, answers: str
) -> None:
    """Write a network for any batch size."""
    program = torch.onnx.export(
        network,
        (example_images(architecture),),
        dynamo=True,
        verbose=False,
        dynamic_shapes=({0: "batch"},),
        input_names=[INPUT],
        output_names=[answers],
        opset_version=OPSET,
    )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, which name files of this machine
    program.save(path, external_data=False)


def _export_detector(network: nn.Module, architecture: Architecture, path: Path) -> None:
    """Write a detector, by tracing: torch.export does not take steps that depend on values."""
    size = architecture.image_size
    # Noise, on which more is found than on a black image, and not square.
    image = torch.rand(
        (architecture.in_channels, size, size * 3 // 4), generator=torch.Generator().manual_seed(0)
    )
    sides = {1: "height", 2: "width"}
    axes: dict[str, dict[int, str]] = {IMAGE: sides, **{name: {0: "objects"} for name in OBJECTS}}
    axes["masks"] |= {2: "height", 3: "width"}
    with warnings.catch_warnings():  # of constants that torchvision means to be some, and old age
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _OneImage(network),
            (image,),
            path,
            dynamo=False,
            input_names=[IMAGE],
            output_names=list(OBJECTS),
            dynamic_axes=axes,
            opset_version=OPSET,
        )


class _OneImage(nn.Module):
    """A detector of one image, whose answer is a tuple."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        (found,) = self.detector([image])
        return tuple(found[name] for name in OBJECTS)


def _set_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    import onnx

    model = onnx.load(path)
    model.ir_version = min(model.ir_version, IR_VERSION)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(metadata))
    for node in model.graph.node:
        node.doc_string = ""
    onnx.save(model, path)


def describe(
    architecture: Architecture, *, model: str, version: int, content_hash: str, resize: str
) -> dict[str, str]:
    """Return what an ONNX file says of itself (``custom_metadata_map`` in ONNX Runtime)."""
    return {
        "task": architecture.task,
        "classes": json.dumps(list(architecture.classes)),
        "image_size": str(architecture.image_size),
        "channels": str(architecture.in_channels),
        "resize": resize,
        "model": model,
        "version": str(version),
        "content_hash": content_hash,
    }


def onnx_network(path: Path, num_threads: int | None = None) -> Form:
    """Return an ONNX file as a function from images to answers, on the CPU.

    Args:
        path: the file.
        num_threads: that it may use; ``None``: as torch does.

    Raises:
        OnnxMissingError: ONNX Runtime is not installed.
        PackageError: the file is no network that it can run.
    """
    require_onnx("onnxruntime")
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = num_threads or torch.get_num_threads()
    settings.log_severity_level = _ERRORS_ONLY
    try:
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
    except Exception as error:  # its kinds have no base of their own, and are private
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PackageError(f"{path} cannot be run: {reason}; export it again") from None

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(out) for out in session.run(None, {given.name: images.numpy()})]

    def answers(images: Tensor) -> Tensor:
        return run(images)[0]

    def objects(images: Any) -> list[dict[str, Tensor]]:
        return [dict(zip(OBJECTS, run(image), strict=True)) for image in images]

    return objects if given.name == IMAGE else answers
