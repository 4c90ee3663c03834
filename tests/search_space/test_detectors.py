"""Searching in a Mask R-CNN through its scopes: costs, and gated against sliced networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from exactness import Sliced, randomize, relative_difference
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import AnchorGenerator, RPNHead

from pas_trainer import attach_gates, slice_channels
from search_space import (
    DETECTOR_SCOPES,
    ChannelGraph,
    LatencyTarget,
    MaskRCNNVariant,
    build_supernet,
    build_supernet_on_meta,
    detector_calls,
    graph_with_latency,
    latency_measurement,
    measure_latency_table,
    trace_channels,
    trace_detector,
)
from search_space.mask_rcnn import freeze_norms, mask_rcnn

SMALL = {
    "fpn_channels": 8,
    "head_channels": 4,
    "min_size": 64,
    "rpn_post_nms_top_n_test": 20,
    "box_detections_per_img": 5,
}


def small_detector() -> nn.Module:
    """One block per stage, and frozen norms as in the network with published weights."""
    network = mask_rcnn(MaskRCNNVariant((1, 1, 1, 1), (4, 4, 8, 8), **SMALL), 3)
    freeze_norms(network, eps=0.0)
    return network


def second_version() -> nn.Module:
    """A small one of the parts of torchvision's second version: norms everywhere, deeper heads."""
    stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    body = nn.Sequential()
    body.add_module("layer1", stem)
    body.add_module("layer2", nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6)))
    levels = {"layer1": "0", "layer2": "1"}
    backbone = BackboneWithFPN(body, levels, [4, 6], 8, norm_layer=nn.BatchNorm2d)
    return MaskRCNN(
        backbone,
        min_size=64,
        max_size=64,
        rpn_anchor_generator=AnchorGenerator(((8,), (16,), (32,)), ((0.5, 1.0, 2.0),) * 3),
        rpn_head=RPNHead(8, 3, conv_depth=2),
        rpn_post_nms_top_n_test=20,
        box_head=FastRCNNConvFCHead((8, 7, 7), [6, 6], [16], norm_layer=nn.BatchNorm2d),
        box_predictor=FastRCNNPredictor(16, 3),
        box_detections_per_img=5,
        mask_head=MaskRCNNHeads(8, [6, 6], 1, norm_layer=nn.BatchNorm2d),
        mask_predictor=MaskRCNNPredictor(6, 6, 3),
    )


def draw(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.rand(shape, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module", params=[small_detector, second_version])
def sliced(request: pytest.FixtureRequest) -> Iterator[Sliced]:
    """A detector with half of its gates closed at random, and what was cut out of it."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = request.param().double().eval()
    randomize(model, generator)
    graph = trace_detector(model, (3, 64, 64))
    gated = attach_gates(model, graph).double().eval()
    for gate in gated.gates.values():
        with torch.no_grad():
            gate.scores.copy_(torch.rand(gate.scores.shape, generator=generator))
    return Sliced(graph, gated, slice_channels(gated))


def inputs_of(scope: str, network: nn.Module, num_images: int = 1) -> Any:
    """What reaches a scope: as many regions per image as ``detector_calls`` says."""
    if scope == "backbone":
        return draw(num_images, 3, 64, 64)
    if scope == "rpn.head":
        return [draw(num_images, 8, size, size) for size in (16, 8, 4)]
    num_regions = num_images * (20 if scope.endswith("box_head") else 5)
    channels = network.get_submodule(scope)[0].in_channels if "mask_pred" in scope else 8
    side = 7 if scope.endswith("box_head") else 14
    return draw(num_regions, channels, side, side)


def run_scope(whole: nn.Module, network: nn.Module, scope: str, x: Any) -> Any:
    """Run one scope of ``network`` alone, through ``whole``, which may be its gated network."""
    network.forward = network.get_submodule(scope).__call__  # type: ignore[method-assign]
    try:
        return whole(x)
    finally:
        del network.forward


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("scope", DETECTOR_SCOPES)
def test_gated_and_sliced_scopes_agree(sliced: Sliced, scope: str, training: bool) -> None:
    gated, compact = sliced.gated.train(training), sliced.compact.train(training)
    x = inputs_of(scope, gated.network, 2)
    expected = run_scope(gated, gated.network, scope, x)
    assert relative_difference(run_scope(compact, compact, scope, x), expected) < 1e-9


def test_gated_and_sliced_detectors_detect_the_same(sliced: Sliced) -> None:
    gated, compact = sliced.gated.eval(), sliced.compact.eval()
    images = [draw(3, 64, 64), draw(3, 48, 60)]
    with torch.no_grad():
        expected, got = gated(images), compact(images)
    assert all(len(result["boxes"]) > 0 for result in expected)
    assert relative_difference(got, expected) < 1e-9


def test_each_scope_has_channels_to_search(sliced: Sliced) -> None:
    writers = [group.producers[0] for group in sliced.graph.groups]
    for scope in DETECTOR_SCOPES:
        assert any(writer.startswith(f"{scope}.") for writer in writers), scope
    assert sliced.graph.unsupported_ops() == ()
    assert sliced.graph.searchable_share() == 1


def test_macs_are_those_of_every_region(sliced: Sliced) -> None:
    """Torch's own counter, each scope run on as many regions as an image can have."""
    gated, compact = sliced.gated.eval(), sliced.compact.eval()
    levels = list(gated.network.backbone(draw(1, 3, 64, 64)).values())
    for widths, network in (({}, gated.network), (sliced.widths, compact)):
        total = 0
        for scope in DETECTOR_SCOPES:
            x = levels if scope == "rpn.head" else inputs_of(scope, network)
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                network.get_submodule(scope)(x)
            total += counter.get_total_flops()
        assert total == 2 * sliced.graph.count_macs(widths)
        num_params = sum(p.numel() for p in network.parameters())
        assert sliced.graph.count_params(widths) == num_params


def macs_of(graph: ChannelGraph, scope: str) -> float:
    widths = graph.full_widths()
    products = [p for p in graph.macs_by_layer if p.source.startswith(f"{scope}.")]
    return sum(p.coefficient * p.a.of(widths) * p.b.of(widths) for p in products)


@pytest.mark.parametrize("sliced", [small_detector], indirect=True)
def test_heads_cost_what_their_layers_say(sliced: Sliced) -> None:
    graph = sliced.graph
    assert macs_of(graph, "roi_heads.box_head") == 20 * (8 * 7 * 7 * 16 + 16 * 16)
    assert macs_of(graph, "roi_heads.mask_head") == 5 * 14 * 14 * 9 * (8 * 4 + 3 * 4 * 4)
    assert macs_of(graph, "roi_heads.mask_predictor") == 5 * 14 * 14 * 4 * (4 * 4 + 4 * 3)
    pixels = sum(side**2 for side in (16, 8, 4, 2, 1))
    assert macs_of(graph, "rpn.head") == pixels * (9 * 8 * 8 + 8 * 3 + 8 * 12)


def test_detectors_on_the_meta_device_cost_the_same() -> None:
    scope = ("rpn.head", "roi_heads.mask_predictor")
    networks = [
        build("maskrcnn_resnet18_fpn", 7, width=0.125, **SMALL)
        for build in (build_supernet, build_supernet_on_meta)
    ]
    real, meta = (trace_detector(network, (3, 64, 64), scope=scope) for network in networks)
    assert real.groups == meta.groups
    widths = {"rpn.head.conv.0.0": 3, "roi_heads.mask_predictor.conv5_mask": 2}
    assert real.count_macs(widths) == meta.count_macs(widths) < meta.count_macs()
    # As trials do it: the network as it is, with the numbers that are read off it.
    calls = detector_calls(networks[1], scope)
    image = torch.zeros(3, 64, 64)
    again = trace_channels(networks[1], ([image],), scope=scope, calls=calls)
    assert again.count_macs(widths) == meta.count_macs(widths)


@pytest.mark.parametrize("rpn_thresh", [0.0, 1.1], ids=["no detections", "no regions"])
def test_costs_do_not_depend_on_what_is_detected(rpn_thresh: float) -> None:
    network: Any = small_detector()
    network.rpn.score_thresh, network.roi_heads.score_thresh = rpn_thresh, 1.1
    with torch.no_grad():
        assert len(network.eval()([torch.zeros(3, 64, 64)])[0]["boxes"]) == 0
    graph = trace_detector(network, (3, 64, 64), scope=["roi_heads.mask_predictor"])
    assert graph.count_macs() == 5 * 14 * 14 * 4 * (4 * 4 + 4 * 3)


def test_calls_are_read_off_the_network() -> None:
    network = small_detector()
    assert detector_calls(network) == {
        "roi_heads.box_head": 20,
        "roi_heads.mask_head": 5,
        "roi_heads.mask_predictor": 5,
    }
    assert detector_calls(network, ["backbone", "roi_heads.box_head"]) == {"roi_heads.box_head": 20}
    with pytest.raises(ValueError, match="Linear is no detector of torchvision's kind"):
        detector_calls(nn.Linear(2, 2))


class Pair(nn.Module):
    """An image's features, and a head that code of unknown kind may call many times."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 1))
        self.head = nn.Sequential(nn.Conv2d(5, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def test_a_scope_called_several_times_per_image_counts_as_often() -> None:
    x = torch.empty(1, 3, 8, 8)
    once = trace_channels(Pair(), x, scope=["body", "head"])
    often = trace_channels(Pair(), x, scope=["body", "head"], calls={"head": 7})
    body, head = 64 * (27 * 4 + 4 * 5), 64 * (5 * 6 + 6 * 2)
    assert once.count_macs() == body + head
    assert often.count_macs() == body + 7 * head
    assert often.count_macs({"head.0": 3}) == body + 7 * head // 2
    assert often.count_params() == once.count_params()
    # All regions are in memory at once: the input, and what the convolution and the ReLU make.
    assert often.count("activation_bytes") == 7 * 4 * 64 * (5 + 6 + 6)
    shapes = {op.name: op.arguments[0][0].shape for op in often.operators}
    assert (shapes["body.0"], shapes["head.0"]) == ((1, 3, 8, 8), (7, 5, 8, 8))
    assert [inputs.args[0].shape for inputs in often.inputs] == [(1, 3, 8, 8), (7, 5, 8, 8)]


def test_measured_latencies_are_those_of_every_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """MACs in the place of milliseconds: the operators run on all the regions of two images."""

    def count_macs(run: Callable[[], Any], _target: LatencyTarget) -> float:
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops() / 2

    monkeypatch.setattr(latency_measurement, "_timed", count_macs)
    monkeypatch.setattr(latency_measurement, "REPEATS", (1, 1))
    pair = Pair()
    graph = trace_channels(pair, torch.empty(1, 3, 8, 8), scope=["body", "head"], calls={"head": 7})
    table = measure_latency_table(graph, pair, LatencyTarget(batch_size=2))
    measured = graph_with_latency(graph, table)
    for widths in ({}, {"body.0": 2, "head.0": 3}):
        assert measured.count("latency_ms", widths) == 2 * graph.count_macs(widths)


@pytest.mark.parametrize(
    ("calls", "sentence"),
    [
        ({"haed": 2}, "calls names 'haed', which is no scope; known: body, head"),
        ({"head": 0}, "calls of scope head is 0; it must be a whole number >= 1"),
        ({"head": 1.5}, "calls of scope head is 1.5"),
    ],
)
def test_calls_that_make_no_sense_are_refused(calls: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        trace_channels(Pair(), torch.empty(1, 3, 8, 8), scope=["body", "head"], calls=calls)
