import pytest
import torch
from torch import nn
from torch.nn import functional as F

from search_space import MobileOneBlock, RepVGGBlock, trace_channels
from search_space.costs import Width
from search_space.operators import network_signature


def _operators(model, size=8, batch=1, **options):
    return trace_channels(model, torch.empty(batch, 3, size, size), **options).operators


def _by_name(operators):
    return {operator.name: operator for operator in operators}


def test_sides_of_a_plain_chain():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 2, 1)
    )
    first, norm, relu, second, last = _operators(model)
    assert [o.name for o in (first, norm, relu, second, last)] == ["0", "1", "2", "3", "4"]
    assert (first.read, first.written) == (Width(1), Width(0, (("0", 1),)))
    assert (norm.read, norm.written) == (Width(1), Width(0, (("0", 1),)))
    assert (second.read, second.written) == (Width(0, (("0", 1),)), Width(0, (("3", 1),)))
    assert (last.read, last.written) == (Width(0, (("3", 1),)), Width(1))
    assert second.full == (8, 16)
    assert "float32[1n, 8r, 6, 6]" in second.signature
    assert "weight=float32[16w, 8r, 3, 3]" in second.signature


def test_equal_operators_of_any_networks_and_batches_share_a_signature():
    def chain(width):
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, width, 1))

    one, other = _operators(chain(4)), _operators(chain(5), batch=3)
    assert [o.signature for o in one[:2]] == [o.signature for o in other[:2]]
    assert one[2].signature != other[2].signature
    assert network_signature(one) != network_signature(other)
    assert network_signature(one) == network_signature(_operators(chain(4), batch=2))


@pytest.mark.parametrize(
    "change",
    [{"stride": 2}, {"padding": 1}, {"dilation": 2}, {"bias": False}, {"padding_mode": "reflect"}],
)
def test_settings_are_part_of_the_signature(change):
    def signature(**options):
        model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3, **options))
        return _operators(model)[1].signature

    assert signature() != signature(**change)


def test_a_block_is_the_convolution_it_becomes():
    model = nn.Sequential(RepVGGBlock(3, 8), RepVGGBlock(8, 8), nn.Conv2d(8, 2, 1))
    operators = _operators(model)
    assert len(operators) == 3
    assert operators[1].signature.startswith("PlainBlock(")
    assert operators[1].read == Width(0, (("0", 1),))
    assert operators[1].written == Width(0, (("1", 1),))
    assert not any(tensor.requires_grad for tensor in operators[1].target.parameters())


def test_a_depthwise_block_has_one_side():
    block = MobileOneBlock(8, 8, depthwise=True)
    operator = _operators(nn.Sequential(nn.Conv2d(3, 8, 1), block, nn.Conv2d(8, 2, 1)))[1]
    assert operator.signature.startswith("PlainBlock(")
    assert (operator.read, operator.written) == (Width(1), Width(0, (("0", 1),)))
    assert dict(operator.tensors)["conv.weight"].resized == ((0, 1),)
    assert operator.has_group_per_unit


def test_grouped_convolutions_change_by_whole_groups():
    few = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 16, 3, groups=2), nn.Conv2d(16, 2, 1))
    many = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 16, 3, groups=8), nn.Conv2d(16, 2, 1))
    operator = _operators(few)[1]
    assert operator.step == (2, 2)
    assert dict(operator.tensors)["weight"].resized == ((0, 1), (1, 0))
    assert not operator.has_group_per_unit
    operator = _operators(many)[1]
    assert (operator.read, operator.step) == (Width(1), (1, 2))
    assert operator.has_group_per_unit


class _Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
        self.last = nn.Conv2d(10, 2, 1)

    def forward(self, x):
        a, b = self.a(x), self.b(x)
        return self.last(F.relu(torch.cat([a, b * b.sigmoid()], 1)))


def test_concatenation_goes_by_its_result():
    operators = _by_name(_operators(_Branches()))
    both = Width(0, (("a", 1), ("b", 1)))
    assert operators["cat"].written == operators["relu"].written == both
    assert operators["cat"].full == (1, 10)
    assert operators["last"].read == both
    assert operators["mul"].written == operators["sigmoid"].written == Width(0, (("b", 1),))


class _Attention(nn.Module):
    """Tensors that are no images, and values that take no time."""

    def __init__(self):
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 8, 1), nn.Linear(8, 12)
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(6, 5)

    def forward(self, x):
        y = self.stem(x).permute(0, 2, 3, 1)
        batch = y.shape[0]
        first, second = self.norm(self.mix(y)).chunk(2, -1)
        return self.head((first + second).mean((1, 2))).reshape(batch, 5)


def test_layouts_and_values_that_are_no_tensors():
    operators = _by_name(_operators(_Attention(), batch=2))
    assert operators["mix"].arguments[0][0].order == (0, 3, 1, 2)
    assert operators["mix"].arguments[0][0].is_batched
    assert operators["norm"].full == (1, 12)
    assert not {"getattr", "getitem"} & operators.keys()


def test_scopes_list_only_what_is_in_them():
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)), nn.Conv2d(4, 2, 1)
    )
    graph = trace_channels(model, torch.empty(2, 3, 8, 8), scope="0")
    assert [operator.name for operator in graph.operators] == ["0.0", "0.1", "0.2"]
    (inputs,) = graph.inputs
    assert inputs.scope == "0"
    assert str(inputs.args[0]) == "float32[1n, 3, 8, 8]"
