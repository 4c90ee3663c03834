import pytest
import torch
from torch import nn
from torch.nn import functional as F

from search_space import trace_channels
from search_space.latency_target import LatencyTarget
from search_space.operator_run import operator_run, scope_run

TARGET = LatencyTarget(batch_size=2)


def _operator(layer, channels=12):
    """The operator of a layer between two 1x1 convolutions, whose channels are searchable."""
    last = nn.LazyConv2d(2, 1)
    model = nn.Sequential(nn.Conv2d(3, channels, 1), layer, last)
    model(torch.rand(1, 3, 8, 8))
    graph = trace_channels(model, torch.empty(1, 3, 8, 8))
    return graph, next(o for o in graph.operators if o.name.startswith("1"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("layer", "channels", "expected"),
    [
        (nn.Conv2d(12, 20, 3), (5, 7), (2, 7, 6, 6)),
        (nn.Conv2d(12, 20, 3, groups=2), (4, 6), (2, 6, 6, 6)),
        (nn.Conv2d(12, 24, 3, groups=12), (1, 6), (2, 6, 6, 6)),
        (nn.Conv2d(12, 12, 3, groups=6), (1, 4), (2, 4, 6, 6)),
        (nn.ConvTranspose2d(12, 20, 2, stride=2), (5, 7), (2, 7, 16, 16)),
        (nn.BatchNorm2d(12), (1, 5), (2, 5, 8, 8)),
        (nn.InstanceNorm2d(12, affine=True), (1, 5), (2, 5, 8, 8)),
        (nn.InstanceNorm2d(12), (1, 5), (2, 5, 8, 8)),
        (nn.GroupNorm(4, 12), (1, 8), (2, 8, 8, 8)),
        (nn.PReLU(12), (1, 5), (2, 5, 8, 8)),
        (nn.MaxPool2d(2), (1, 5), (2, 5, 4, 4)),
        (nn.Dropout2d(0.5), (1, 5), (2, 5, 8, 8)),
    ],
)
def test_result_has_the_shape_of_the_narrowed_network(layer, channels, expected):
    _, operator = _operator(layer)
    assert operator_run(operator, channels, TARGET)().shape == expected


class _ChannelNorm(nn.LayerNorm):
    """Over the channels of an image, as ConvNeXt has it."""

    def forward(self, x):
        y = F.layer_norm(
            x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps
        )
        return y.permute(0, 3, 1, 2)


class _DepthwiseFunction(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight, self.bias, groups=self.groups)


@pytest.mark.parametrize(
    ("layer", "function", "expected"),
    [
        (_ChannelNorm(12), "layer_norm", (2, 8, 8, 5)),
        (_DepthwiseFunction(12, 12, 3, groups=12), "conv2d", (2, 5, 6, 6)),
    ],
)
def test_functions_learn_how_many_channels_there_are(layer, function, expected):
    graph, _ = _operator(layer)
    operator = next(o for o in graph.operators if o.name == f"1 {function}")
    assert operator_run(operator, (1, 5), TARGET)().shape == expected


def test_channels_last_and_type_of_the_target():
    target = LatencyTarget(channels_last=True, dtype="bfloat16")
    _, operator = _operator(nn.Conv2d(12, 20, 3))
    result = operator_run(operator, (12, 20), target)()
    assert result.dtype == torch.bfloat16
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert not operator_run(operator, (12, 20), TARGET)().is_contiguous(
        memory_format=torch.channels_last
    )


def test_the_operator_itself_stays_as_it_is():
    _, operator = _operator(nn.Conv2d(12, 24, 3, groups=12))
    operator_run(operator, (1, 2), TARGET)()
    assert operator.target.groups == 12
    assert operator.target.weight is None


def test_repeating_in_place_operators_stays_in_range():
    class Scaled(nn.Module):
        def forward(self, x):
            return x.mul_(x.sigmoid())

    graph, _ = _operator(Scaled())
    operator = next(o for o in graph.operators if o.name == "1 mul_")
    run = operator_run(operator, operator.full, TARGET)
    for _ in range(100):
        result = run()
    smallest = result.abs().min()
    assert torch.isfinite(result).all()
    assert smallest == 0 or smallest > torch.finfo(torch.float32).tiny


def test_a_scope_gets_a_batch_of_the_targets_size():
    graph, _ = _operator(nn.ReLU())
    seen = []
    probe = nn.Identity()
    probe.register_forward_pre_hook(lambda _module, args: seen.append(args[0].shape))
    scope_run(probe, graph.inputs[0], TARGET)()
    assert seen == [(2, 3, 8, 8)]
