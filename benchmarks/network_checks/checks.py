"""What is checked of one network: exact slices, true costs, training, exports.

All of it with random weights, random norm statistics and about half of the channels closed, at
random.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import resource
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor, nn

from network_checks.exports import check_exports
from network_checks.measures import count_macs, float_leaves, randomize, relative_difference
from network_checks.subjects import Subject, all_subjects
from pas_trainer import GatedNetwork, attach_gates, reparameterize, slice_channels
from search_space import ChannelGraph, trace_channels

SLICED_TOLERANCE = 1e-9
"""Largest relative difference between gated and sliced outputs in float64."""
LEAST_EFFECT = 1e-3
"""Closing half of the channels must change the outputs by more than this, or a fault in slicing
could not be seen."""


def check_and_send(name: str, num_threads: int, out: Connection) -> None:
    """Check the network of that name and send its row; the body of a process."""
    torch.set_num_threads(num_threads)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    subject = next(s for s in all_subjects() if s.name == name)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            row = check(subject)
    except Exception as error:
        row = {"failures": [_in_one_line(error)], "traceback": traceback.format_exc()}
    out.send(row)


def check(subject: Subject) -> dict[str, Any]:
    """Check one network and return its row of the table; ``failures`` is empty if all is well."""
    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)
    row: dict[str, Any] = {
        "kind": subject.kind,
        "image_size": subject.image_size,
        "scope": list(subject.scope),
        "failures": [],
    }
    model = subject.build().double().eval()
    args = subject.inputs(2, torch.float64)
    randomize(model, args)
    start = time.process_time()
    graph = trace_channels(model, args, scope=subject.scope or None)
    row["trace_seconds"] = time.process_time() - start
    row |= _describe(graph)
    _check_costs(row, "full", graph, {}, model, subject, args)
    torch.manual_seed(1)
    with torch.no_grad():
        full = float_leaves(model(*args))
    gated = attach_gates(model, graph)
    del model
    compact = _check_slice(row, gated, args, full)
    widths = {name: len(units) for name, units in gated.open_channels().items()}
    row["kept_share"] = graph.count_macs(widths) / graph.count_macs()
    del gated
    _check_costs(row, "sliced", graph, widths, compact, subject, args)
    compact.float()
    plain = reparameterize(compact).eval()
    if subject.kind == "family":
        _check_deploy_form(row, compact, plain, subject)
    row |= _attempt(row, "export", lambda: check_exports(plain, subject))
    row |= _attempt(row, "training", lambda: _check_training(compact, subject))
    row["failures"] += row.pop("export_failures", [])
    row["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return row


def _describe(graph: ChannelGraph) -> dict[str, Any]:
    pinned = Counter(op.reason for op in graph.unsupported_ops())
    return {
        "num_groups": len(graph.groups),
        "num_units": sum(group.size for group in graph.groups),
        "macs": graph.count_macs(),
        "num_params": graph.count_params(),
        "searchable_share": graph.searchable_share(),
        "pinned": [
            {
                "reason": reason,
                "count": count,
                "example": next(o.module for o in graph.unsupported_ops() if o.reason == reason),
            }
            for reason, count in pinned.most_common()
        ],
    }


@torch.no_grad()
def _check_slice(
    row: dict[str, Any], gated: GatedNetwork, args: Sequence[Any], full: Sequence[Tensor]
) -> nn.Module:
    """Close gates at random, slice, and compare; ``full`` is what the whole network returns."""
    gated.double().eval()
    for gate in gated.gates.values():
        gate.scores.uniform_()
    start = time.process_time()
    compact = slice_channels(gated)
    row["slice_seconds"] = time.process_time() - start
    torch.manual_seed(1)
    expected = float_leaves(gated(*args))
    torch.manual_seed(1)
    got = float_leaves(compact(*args))
    row["sliced_difference"] = relative_difference(got, expected)
    if not row["sliced_difference"] < SLICED_TOLERANCE:
        row["failures"].append("gated and sliced outputs differ")
    row["effect_of_gates"] = min(relative_difference(expected, full), 1e3)
    if row["effect_of_gates"] < LEAST_EFFECT:
        row["failures"].append("the outputs hardly depend on the gates: nothing was checked")
    return compact


def _check_costs(
    row: dict[str, Any],
    what: str,
    graph: ChannelGraph,
    widths: Mapping[str, int],
    network: nn.Module,
    subject: Subject,
    args: Sequence[Any],
) -> None:
    """Compare MACs and parameters with what a real pass multiplies and what the network holds."""
    plain = reparameterize(network) if subject.kind == "family" else network
    macs = sum(count_macs(plain, name, args) for name in subject.scope or ("",))
    num_params = sum(p.numel() for p in plain.parameters())
    if (counted := graph.count_macs(widths)) != macs:
        row["failures"].append(f"MACs of the {what} network: {counted}, really {macs}")
    if (counted := graph.count_params(widths)) != num_params:
        row["failures"].append(f"parameters of the {what} network: {counted}, really {num_params}")


@torch.no_grad()
def _check_deploy_form(
    row: dict[str, Any], compact: nn.Module, plain: nn.Module, subject: Subject
) -> None:
    """In float64, the deploy form gives the outputs of the training form."""
    exact = copy.deepcopy(compact).double().eval()
    x = subject.inputs(2, torch.float64)
    row["deploy_difference"] = relative_difference(
        float_leaves(reparameterize(exact)(*x)), float_leaves(exact(*x))
    )
    if not row["deploy_difference"] < SLICED_TOLERANCE:
        row["failures"].append("deploy form and training form differ")
    assert not plain.training


def _check_training(compact: nn.Module, subject: Subject) -> dict[str, Any]:
    """Run forward and backward of the sliced network in training mode."""
    compact.train()
    outputs = float_leaves(compact(*subject.training_inputs(2)))
    loss = sum((output.square().mean() for output in outputs), torch.zeros(()))
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {n: p.grad for n, p in compact.named_parameters() if p.requires_grad}
    missing = [name for name, gradient in gradients.items() if gradient is None]
    if missing:
        raise ValueError(f"{len(missing)} parameters without gradient, the first: {missing[0]}")
    for name, gradient in gradients.items():
        if gradient is not None and not gradient.isfinite().all():
            raise ValueError(f"the gradient of {name} is not finite")
    return {"training_loss": float(loss.detach())}


def _attempt(row: dict[str, Any], what: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what ``run`` returns; an exception becomes a failure."""
    try:
        return run()
    except Exception as error:
        row["failures"].append(f"{what}: {_in_one_line(error)}")
        return {}


def _in_one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"
