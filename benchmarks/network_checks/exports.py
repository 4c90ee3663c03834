"""After export: outputs of the program as torch and ONNX Runtime compute them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import onnxscript  # noqa: F401 - torch.onnx.export needs it: better loaded once, before any fork
import torch
import torch.export
import torch.onnx
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from network_checks.measures import float_leaves, reaching, relative_difference
from network_checks.subjects import Subject

EXPORT_TOLERANCE = 1e-4
"""Largest relative difference between a network and its export in float32."""


def check_exports(network: nn.Module, subject: Subject) -> dict[str, Any]:
    """Export the network; detectors, whose code depends on values, by their searched parts."""
    args = subject.inputs(2, torch.float32)
    parts: list[tuple[str, nn.Module, Sequence[Any]]] = [("", network, args)]
    row: dict[str, Any] = {"export_failures": [], "exported": "whole"}
    if subject.kind == "detection":
        row["exported"] = "parts"
        parts = [
            (name, network.get_submodule(name), reaching(network, name, args))
            for name in subject.scope
        ]
    start = time.process_time()
    for name, part, reached in parts:
        _check_part(row, name, part, tuple(reached))
    row["export_seconds"] = time.process_time() - start
    return row


@torch.no_grad()
def _check_part(row: dict[str, Any], name: str, part: nn.Module, args: tuple[Any, ...]) -> None:
    expected = float_leaves(part(*args))
    exported = torch.export.export(part, args, strict=False)
    got = float_leaves(exported.module()(*args))
    _note(row, "export_difference", name, relative_difference(got, expected))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        program = torch.onnx.export(exported, (), dynamo=True, verbose=False)
        assert program is not None
        program.save(path, external_data=True)
        del program, exported
        outputs = _run_onnx(path, [t for t in tree_leaves(args) if isinstance(t, Tensor)])
    _note(row, "onnx_difference", name, relative_difference(outputs, expected))


def _note(row: dict[str, Any], key: str, part: str, difference: float) -> None:
    row[key] = max(row.get(key, 0.0), difference)
    if not difference < EXPORT_TOLERANCE:
        row["export_failures"].append(f"{key} of {part or 'the network'} is {difference:.1e}")


def _run_onnx(path: Path, tensors: Sequence[Tensor]) -> list[Tensor]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
    return [torch.from_numpy(output) for output in session.run(None, feed)]
