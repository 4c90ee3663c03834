"""Exactness on networks as they are, at small image sizes, fast ones only."""

from collections.abc import Callable

import pytest
import torch
from exactness import check_exact, check_gradients, relative_difference, slice_at_random
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

NETWORKS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "resnet18": (32, lambda: models.resnet18(num_classes=7)),
    "mobilenet_v3_small": (32, lambda: models.mobilenet_v3_small(num_classes=7)),
    "shufflenet_v2_x0_5": (32, lambda: models.shufflenet_v2_x0_5(num_classes=7)),
    "convnext": (
        32,
        lambda: ConvNeXt([CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 1)], num_classes=7),
    ),
    "densenet": (32, lambda: models.DenseNet(8, (2, 3), 16, 2, num_classes=7)),
    "regnet_y_400mf": (32, lambda: models.regnet_y_400mf(num_classes=7)),
    "squeezenet1_1": (64, lambda: models.squeezenet1_1(num_classes=7)),
}


def _without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_gated_and_sliced_networks_agree(name: str) -> None:
    size, build = NETWORKS[name]
    torch.manual_seed(0)
    model, x = _without_dropout(build()), torch.randn(3, 3, size, size, dtype=torch.float64)
    sliced = slice_at_random(model, x, 1)
    assert sliced.graph.unsupported_ops() == ()
    assert sliced.graph.searchable_share() == 1
    check_exact(sliced, x)
    if name in {"resnet18", "convnext", "densenet"}:
        check_gradients(sliced, x)


def test_auxiliary_heads_are_sliced_with_the_rest() -> None:
    torch.manual_seed(0)
    model = models.googlenet(num_classes=7, init_weights=False)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    sliced = slice_at_random(_without_dropout(model), x, 1)
    check_exact(sliced, x, training=False)
    gated, compact = sliced.gated.train(), sliced.compact.train()
    expected, got = gated(x), compact(x)
    assert got._fields == ("logits", "aux_logits2", "aux_logits1")
    assert relative_difference(tuple(got), tuple(expected)) < 1e-9
    assert sliced.widths["aux1.conv.conv"] == compact.get_submodule("aux1.fc1").in_features // 16
