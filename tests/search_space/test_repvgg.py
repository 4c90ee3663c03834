from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pas_trainer import reparameterize
from search_space import REPVGG_VARIANTS, RepVGG, RepVGGBlock, slice_network, trace_channels


def _randomised(block: RepVGGBlock) -> RepVGGBlock:
    """The block in float64 and eval mode, with batch-norms far from the identity."""
    with torch.no_grad():
        for module in block.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.normal_(1, 0.5)
                module.bias.normal_(0, 0.5)
                module.running_mean.normal_(0, 0.5)
                module.running_var.uniform_(0.5, 2)
    return block.double().eval()


def _normed(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    def column(t: Tensor) -> Tensor:
        return t.reshape(1, -1, 1, 1)

    scale = column(norm.weight) / torch.sqrt(column(norm.running_var) + norm.eps)
    return (x - column(norm.running_mean)) * scale + column(norm.bias)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize(("c_in", "c_out", "stride"), [(5, 5, 1), (5, 5, 2), (4, 6, 1), (6, 4, 2)])
def test_block_is_the_sum_of_its_normed_branches(
    c_in: int, c_out: int, stride: int, size: int
) -> None:
    torch.manual_seed(0)
    block = _randomised(RepVGGBlock(c_in, c_out, stride))
    x = torch.randn(2, c_in, size, size, dtype=torch.float64)
    expected = _normed(F.conv2d(x, block.conv3x3.weight, stride=stride, padding=1), block.norm3x3)
    expected += _normed(F.conv2d(x, block.conv1x1.weight, stride=stride), block.norm1x1)
    if c_in == c_out and stride == 1:
        expected += _normed(x, block.norm_identity)
    torch.testing.assert_close(block(x), expected.relu())
    assert block(x).shape == (2, c_out, -(-size // stride), -(-size // stride))


@pytest.mark.parametrize(
    ("c_in", "c_out", "stride", "has_identity"),
    [(4, 4, 1, True), (4, 4, 2, False), (4, 5, 1, False)],
)
def test_identity_branch_exists_where_the_shape_is_kept(
    c_in: int, c_out: int, stride: int, has_identity: bool
) -> None:
    assert (RepVGGBlock(c_in, c_out, stride).norm_identity is not None) == has_identity


@pytest.mark.parametrize("size", [4, 5])
def test_strided_1x1_branch_has_the_gradients_of_a_strided_convolution(size: int) -> None:
    torch.manual_seed(0)
    block = _randomised(RepVGGBlock(3, 4, 2))
    nn.init.zeros_(block.conv3x3.weight)
    x = torch.randn(2, 3, size, size, dtype=torch.float64, requires_grad=True)
    weight = block.conv1x1.weight

    def gradients(y: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(y.square().sum(), (x, weight))

    y = _normed(F.conv2d(x, weight, stride=2), block.norm1x1)
    y = y + _normed(torch.zeros_like(y), block.norm3x3)
    for ours, expected in zip(gradients(block(x)), gradients(y.relu()), strict=True):
        torch.testing.assert_close(ours, expected)


@settings(deadline=None, max_examples=40)
@given(
    read=st.sets(st.integers(0, 5), min_size=1),
    written=st.sets(st.integers(0, 5), min_size=1),
    seed=st.integers(0, 99),
)
def test_block_of_shared_pairs_is_the_full_block_without_the_other_channels(
    read: set[int], written: set[int], seed: int
) -> None:
    torch.manual_seed(seed)
    kept_in, kept_out = sorted(read), sorted(written)
    full = _randomised(RepVGGBlock(6, 6))
    shared = sorted(read & written)
    pairs = [(kept_in.index(c), kept_out.index(c)) for c in shared]
    sliced = RepVGGBlock(len(kept_in), len(kept_out), identity=pairs).double().eval()
    state = {}
    for name, value in full.state_dict().items():
        if name.startswith("conv"):
            state[name] = value[kept_out][:, kept_in]
        elif value.ndim:
            kept = shared if name.startswith("norm_identity") else kept_out
            state[name] = value[kept]
        else:
            state[name] = value
    if not shared:
        assert sliced.norm_identity is None
        state = {n: v for n, v in state.items() if not n.startswith("norm_identity")}
    sliced.load_state_dict(state)

    removed = [c for c in range(6) if c not in read]
    with torch.no_grad():
        for parameter in (full.conv3x3.weight, full.conv1x1.weight):
            parameter[:, removed] = 0
        for parameter in (full.norm_identity.weight, full.norm_identity.bias):
            parameter[removed] = 0
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(sliced(x[:, kept_in]), full(x)[:, kept_out])


def test_crossed_identity_pairs_join_the_named_channels() -> None:
    block = RepVGGBlock(2, 2, identity=[(0, 1)]).eval()
    nn.init.zeros_(block.conv3x3.weight)
    nn.init.zeros_(block.conv1x1.weight)
    x = torch.rand(1, 2, 3, 3)
    y = block(x)
    torch.testing.assert_close(y[:, 1], x[:, 0] / (1 + 1e-5) ** 0.5)
    assert torch.equal(y[:, 0], torch.zeros(1, 3, 3))


def test_all_pairs_named_is_the_default_block() -> None:
    torch.manual_seed(0)
    default = _randomised(RepVGGBlock(4, 4))
    named = RepVGGBlock(4, 4, identity=[(c, c) for c in range(4)]).double().eval()
    named.load_state_dict(default.state_dict())
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    assert torch.equal(named(x), default(x))


@pytest.mark.parametrize("channels", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_channels_last_trains_with_few_channels(channels: int, stride: int) -> None:
    torch.manual_seed(0)
    pairs = [(0, 1)] if stride == 1 else []
    block = RepVGGBlock(channels, 6, stride, pairs)
    x = torch.randn(8, channels, 16, 16)
    expected: list[Tensor] = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        block = block.to(memory_format=memory_format)
        for _ in range(5):  # a corrupted heap shows some steps later
            block.zero_grad()
            block(x.contiguous(memory_format=memory_format)).square().sum().backward()
        gradients = [p.grad.clone() for p in block.parameters()]
        expected = expected or gradients
    for ours, contiguous in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, contiguous, rtol=1e-3, atol=1e-2)


def test_names_under_which_weights_are_stored() -> None:
    shapes = {name: tuple(value.shape) for name, value in RepVGGBlock(4, 4).state_dict().items()}
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

    def norm_shapes(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.{key}": () if key.startswith("num") else (4,) for key in norm}

    expected = {"conv3x3.weight": (4, 4, 3, 3), **norm_shapes("norm3x3")}
    expected |= {"conv1x1.weight": (4, 4, 1, 1), **norm_shapes("norm1x1")}
    expected |= norm_shapes("norm_identity")
    assert list(shapes.items()) == list(expected.items())


@pytest.mark.parametrize(
    ("name", "depths", "widths"),
    [
        ("repvgg_a0", (1, 2, 4, 14, 1), (48, 48, 96, 192, 1280)),
        ("repvgg_a1", (1, 2, 4, 14, 1), (64, 64, 128, 256, 1280)),
        ("repvgg_a2", (1, 2, 4, 14, 1), (64, 96, 192, 384, 1408)),
        ("repvgg_b0", (1, 4, 6, 16, 1), (64, 64, 128, 256, 1280)),
        ("repvgg_b1", (1, 4, 6, 16, 1), (64, 128, 256, 512, 2048)),
        ("repvgg_b2", (1, 4, 6, 16, 1), (64, 160, 320, 640, 2560)),
        ("repvgg_b3", (1, 4, 6, 16, 1), (64, 192, 384, 768, 2560)),
    ],
)
def test_variants_are_those_of_the_paper(
    name: str, depths: tuple[int, ...], widths: tuple[int, ...]
) -> None:
    variant = REPVGG_VARIANTS[name]
    assert (variant.depths, variant.widths) == (depths, widths)
    assert variant.strides == (2, 2, 2, 2, 2)


def _sliced(model: RepVGG, open_channels: Mapping[str, list[int]]) -> nn.Module:
    in_channels = model.stages[0][0].in_channels
    graph = trace_channels(model, torch.empty(1, in_channels, 8, 8))
    every = {group.name: list(range(group.size)) for group in graph.groups}
    return slice_network(model, graph, {**every, **open_channels})


def test_sliced_network_keeps_the_identity_of_channels_that_stay() -> None:
    variant = REPVGG_VARIANTS["repvgg_tiny"]
    model = _sliced(RepVGG(variant, 10), {"stages.1.0": [1, 4, 9], "stages.1.1": [0, 4, 9]})
    first, second = model.stages[1]
    assert (first.in_channels, first.out_channels) == (16, 3)
    assert first.norm_identity is None
    assert (second.in_channels, second.out_channels) == (3, 3)
    assert second.identity_in.tolist() == [1, 2]
    assert second.identity_out.tolist() == [1, 2]
    assert model.stages[2][0].in_channels == 3
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_stages_of_one_width_get_no_identity_at_their_stride() -> None:
    model = RepVGG(REPVGG_VARIANTS["repvgg_b0"], 10)
    assert all(stage[0].norm_identity is None for stage in model.stages)
    assert all(b.norm_identity is not None for stage in model.stages for b in list(stage)[1:])


@pytest.mark.parametrize("deploy", [False, True])
def test_last_closed_channels_leave_the_classifier(deploy: bool) -> None:
    variant = REPVGG_VARIANTS["repvgg_tiny"]
    model = _sliced(RepVGG(variant, 7, 1), {"stages.2.1": [5]})
    model = reparameterize(model) if deploy else model
    assert model.classifier.in_features == 1
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 7)
