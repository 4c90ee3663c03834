import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from search_space import MobileOneBlock, PlainBlock, ReparamBlock, RepVGGBlock

BLOCKS: dict[str, Callable[[], ReparamBlock]] = {
    "repvgg": lambda: RepVGGBlock(5, 5),
    "repvgg strided": lambda: RepVGGBlock(5, 5, 2),
    "repvgg widening": lambda: RepVGGBlock(3, 6),
    "repvgg without identity": lambda: RepVGGBlock(5, 5, identity=[]),
    "repvgg of crossed pairs": lambda: RepVGGBlock(4, 5, identity=[(0, 2), (3, 0), (1, 2)]),
    "depth-wise": lambda: MobileOneBlock(5, 5, depthwise=True, num_branches=3),
    "depth-wise strided": lambda: MobileOneBlock(5, 5, 3, 2, depthwise=True),
    "depth-wise 5x5": lambda: MobileOneBlock(4, 4, 5, depthwise=True),
    "depth-wise 1x1": lambda: MobileOneBlock(4, 4, 1, depthwise=True, num_branches=2),
    "depth-wise of some pairs": lambda: MobileOneBlock(
        4, 4, depthwise=True, identity=[(1, 1), (3, 3)]
    ),
    "point-wise": lambda: MobileOneBlock(5, 5, 1, num_branches=2),
    "point-wise strided": lambda: MobileOneBlock(5, 5, 1, 2),
    "point-wise widening": lambda: MobileOneBlock(3, 6, 1, num_branches=4),
    "stem": lambda: MobileOneBlock(3, 6, 3, 2),
    "full 3x3": lambda: MobileOneBlock(4, 4, num_branches=2),
}
EACH_BLOCK = pytest.mark.parametrize("name", BLOCKS)


def _randomised(block: ReparamBlock) -> ReparamBlock:
    """The block in float64 and eval mode, with batch-norms far from the identity."""
    with torch.no_grad():
        for module in block.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.normal_(1, 0.5)
                module.bias.normal_(0, 0.5)
                module.running_mean.normal_(0, 0.5)
                module.running_var.uniform_(0.5, 2)
    return block.double().eval()


def _images(block: ReparamBlock, size: int = 7) -> Tensor:
    return torch.randn(3, block.in_channels, size, size, dtype=torch.float64)


def _gated(block: ReparamBlock, x: Tensor, gate: Tensor) -> Tensor:
    """The block's output with its read parameters scaled by a gate per input channel."""
    scaled = {}
    for read in block.read_parameters():
        parameter = block.get_parameter(read.name)
        factor = gate if read.index is None else gate[read.index]
        shape = [1] * parameter.ndim
        shape[read.dim] = -1
        scaled[read.name] = parameter * factor.view(shape)
    output: Tensor = functional_call(block, scaled, (x,))
    return output


def _check_slice(block: ReparamBlock, read: list[int], written: list[int]) -> None:
    """Sliced and gated blocks agree in eval and training mode, and in the statistics they leave."""
    x = _images(block, 5)
    gate = torch.zeros(block.in_channels, dtype=torch.float64)
    gate[read] = 1
    before = copy.deepcopy(block.state_dict())
    sliced = block.sliced(torch.tensor(read), torch.tensor(written))
    assert type(sliced) is type(block)
    assert not sliced.training
    assert (sliced.in_channels, sliced.out_channels) == (len(read), len(written))
    for name, value in block.state_dict().items():
        assert torch.equal(value, before[name]), name
    for training in (False, True, False):
        block.train(training)
        sliced.train(training)
        expected = _gated(block, x, gate)[:, written]
        torch.testing.assert_close(sliced(x[:, read]), expected, rtol=0, atol=1e-10)


@EACH_BLOCK
@pytest.mark.parametrize("size", [6, 7])
def test_deploy_form_is_one_equal_convolution(name: str, size: int) -> None:
    torch.manual_seed(0)
    block = _randomised(BLOCKS[name]())
    plain = block.fused()
    assert {n for n, _ in plain.named_parameters()} == {"conv.weight", "conv.bias"}
    columns = 1 if block.depthwise else block.in_channels
    kernel_shape = (block.out_channels, columns, block.kernel_size, block.kernel_size)
    assert plain.conv.weight.shape == kernel_shape
    x = _images(block, size)
    height = -(-size // block.stride)
    assert plain(x).shape == (3, block.out_channels, height, height)
    torch.testing.assert_close(plain(x), block(x), rtol=0, atol=1e-10)


@EACH_BLOCK
def test_deploy_form_of_a_training_block_is_its_eval_form(name: str) -> None:
    torch.manual_seed(0)
    block = _randomised(BLOCKS[name]()).train()
    plain = block.fused()
    assert block.training
    assert not plain.training
    x = _images(block)
    torch.testing.assert_close(plain(x), block.eval()(x), rtol=0, atol=1e-10)


@EACH_BLOCK
def test_sliced_block_is_the_gated_block(name: str) -> None:
    torch.manual_seed(0)
    block = _randomised(BLOCKS[name]())
    if block.depthwise:
        _check_slice(block, [1, 3], [1, 3])
    else:
        _check_slice(block, [0, 2], [0, 1, 3])
        _check_slice(block, [1], [0, 2])


@settings(deadline=None, max_examples=60)
@given(data=st.data(), seed=st.integers(0, 999))
def test_any_slice_of_any_block_is_exact(data: st.DataObject, seed: int) -> None:
    torch.manual_seed(seed)
    draw, channels = data.draw, st.integers(1, 6)
    c_in, stride = draw(channels), draw(st.sampled_from([1, 2]))
    depthwise = draw(st.booleans())
    c_out = c_in if depthwise else draw(channels)
    pair = st.tuples(st.integers(0, c_in - 1), st.integers(0, c_out - 1))
    if depthwise:
        pair = st.integers(0, c_in - 1).map(lambda c: (c, c))
    pairs = draw(st.none() | st.lists(pair, unique=True)) if stride == 1 else None
    if not depthwise and draw(st.booleans()):
        block: ReparamBlock = RepVGGBlock(c_in, c_out, stride, pairs)
    else:
        block = MobileOneBlock(
            c_in,
            c_out,
            draw(st.sampled_from([1, 3, 5])),
            stride,
            depthwise=depthwise,
            num_branches=draw(st.integers(1, 3)),
            identity=pairs,
        )
    block = _randomised(block)
    read = sorted(draw(st.sets(st.integers(0, c_in - 1), min_size=1)))
    written = read if depthwise else sorted(draw(st.sets(st.integers(0, c_out - 1), min_size=1)))
    sliced = block.sliced(torch.tensor(read), torch.tensor(written))
    x = _images(sliced, 5)
    torch.testing.assert_close(sliced.fused()(x), sliced(x), rtol=0, atol=1e-10)
    _check_slice(block, read, written)


@EACH_BLOCK
def test_scaling_read_parameters_is_scaling_the_input(name: str) -> None:
    torch.manual_seed(0)
    block = _randomised(BLOCKS[name]())
    if block.norm_identity is not None:  # only then does its bias alone remain at gate 0
        block.norm_identity.running_mean.zero_()
    x, gate = _images(block), torch.randn(block.in_channels, dtype=torch.float64)
    if block.depthwise:
        assert block.read_parameters() == ()
    else:
        expected = block(x * gate.view(1, -1, 1, 1))
        torch.testing.assert_close(_gated(block, x, gate), expected, rtol=0, atol=1e-10)


@EACH_BLOCK
def test_slicing_nothing_away_copies_the_block(name: str) -> None:
    block = _randomised(BLOCKS[name]()).float().train()
    everything = torch.arange(block.in_channels), torch.arange(block.out_channels)
    sliced = block.sliced(*everything)
    assert sliced.training
    assert list(sliced.state_dict()) == list(block.state_dict())
    for key, value in block.state_dict().items():
        assert torch.equal(sliced.state_dict()[key], value)
        assert sliced.state_dict()[key].data_ptr() != value.data_ptr()
    assert sliced.identity == block.identity


@EACH_BLOCK
def test_blocks_trace_and_have_a_deploy_form_on_the_meta_device(name: str) -> None:
    block = BLOCKS[name]().eval()
    x = torch.randn(1, block.in_channels, 6, 6)
    assert torch.equal(torch.fx.symbolic_trace(block)(x), block(x))
    with torch.device("meta"):
        meta = BLOCKS[name]()
    assert meta.fused()(x.to("meta")).shape == block(x).shape


def test_sliced_identity_joins_the_channels_that_stay_at_both_ends() -> None:
    block = RepVGGBlock(4, 4).sliced(torch.tensor([0, 2, 3]), torch.tensor([1, 2, 3]))
    assert block.identity == ((1, 1), (2, 2))
    assert block.identity_in.tolist() == block.identity_out.tolist() == [1, 2]


@pytest.mark.parametrize(("kernel_size", "groups"), [(1, 1), (3, 1), (3, 4), (5, 4), (1, 4)])
@pytest.mark.parametrize("stride", [1, 2])
def test_plain_block_is_a_convolution_and_relu(kernel_size: int, groups: int, stride: int) -> None:
    block = PlainBlock(4, 8, stride, kernel_size, groups)
    x = torch.randn(2, 4, 7, 7)
    weight, bias = block.conv.weight, block.conv.bias
    expected = F.conv2d(x, weight, bias, stride, kernel_size // 2, groups=groups).relu()
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(
    ("read", "written", "message"),
    [
        ([0, 4], [0], r"read is \[0, 4\]; it must ascend within 0\.\.3"),
        ([0], [2, 1], r"written is \[2, 1\]; it must ascend within 0\.\.3"),
        ([0], [1, 1], r"written is \[1, 1\]"),
        ([], [1], r"read is \[\]"),
        ([-1, 0], [1], r"read is \[-1, 0\]"),
    ],
)
def test_channels_to_keep_are_checked(read: list[int], written: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RepVGGBlock(4, 4).sliced(
            torch.tensor(read, dtype=torch.long), torch.tensor(written, dtype=torch.long)
        )


def test_a_depth_wise_block_reads_what_it_writes() -> None:
    block = MobileOneBlock(3, 3, depthwise=True)
    with pytest.raises(ValueError, match="must read and write the same channels"):
        block.sliced(torch.tensor([0, 1]), torch.tensor([0, 2]))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 4), {}, "in_channels is 0"),
        ((4, -1), {}, "out_channels is -1"),
        ((4, 4, 2), {}, "kernel_size is 2; it must be odd"),
        ((4, 4, 3, 0), {}, "stride is 0"),
        ((4, 5), {"depthwise": True}, "keeps its channels, but in_channels is 4"),
        ((4, 4), {"num_branches": 0}, "num_branches is 0"),
        ((4, 4), {"identity": [(0, 4)]}, r"identity pair \(0, 4\) is outside"),
        ((4, 4), {"identity": [(0, 1)], "depthwise": True}, r"pair \(0, 1\) crosses channels"),
        ((4, 4, 3, 2), {"identity": [(0, 0)]}, "an identity needs stride 1, not 2"),
    ],
)
def test_bad_arguments_are_told_in_a_sentence(
    arguments: tuple[int, ...], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MobileOneBlock(*arguments, **options)
