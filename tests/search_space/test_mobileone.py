import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pas_trainer import reparameterize
from search_space import MOBILEONE_VARIANTS, MobileOne, MobileOneBlock


def _normed(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    def column(t: Tensor) -> Tensor:
        return t.reshape(1, -1, 1, 1)

    scale = column(norm.weight) / torch.sqrt(column(norm.running_var) + norm.eps)
    return (x - column(norm.running_mean)) * scale + column(norm.bias)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel_size", "depthwise"), [(3, True), (3, False), (1, False)])
def test_block_is_the_sum_of_its_normed_branches(
    kernel_size: int, depthwise: bool, stride: int
) -> None:
    torch.manual_seed(0)
    block = MobileOneBlock(4, 4, kernel_size, stride, depthwise=depthwise, num_branches=2).eval()
    norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    assert len(norms) == 2 + (kernel_size > 1) + (stride == 1)

    x, groups = torch.randn(2, 4, 7, 7), 4 if depthwise else 1
    expected = torch.zeros(())
    for conv, norm in (block.branch(name) for name in block.branch_names):
        padding = (conv.weight.shape[-1] - 1) // 2
        y = F.conv2d(x, conv.weight, None, stride, padding, groups=groups)
        expected = expected + _normed(y, norm)
    if block.norm_identity is not None:
        expected = expected + _normed(x, block.norm_identity)
    torch.testing.assert_close(block(x), expected.relu(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kernel_size", "depthwise"), [(3, True), (1, True), (1, False)])
@pytest.mark.parametrize("channels", [1, 3, 7])
def test_channels_last_trains_with_few_channels(
    channels: int, kernel_size: int, depthwise: bool
) -> None:
    torch.manual_seed(0)
    block = MobileOneBlock(channels, channels, kernel_size, 2, depthwise=depthwise)
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


@pytest.mark.parametrize(
    ("name", "widths", "num_branches"),
    [
        ("mobileone_s0", (48, 48, 128, 256, 1024), 4),
        ("mobileone_s1", (64, 96, 192, 512, 1280), 1),
        ("mobileone_s2", (64, 96, 256, 640, 2048), 1),
        ("mobileone_s3", (64, 128, 320, 768, 2048), 1),
    ],
)
def test_variants_are_those_of_the_paper(
    name: str, widths: tuple[int, ...], num_branches: int
) -> None:
    variant = MOBILEONE_VARIANTS[name]
    assert (variant.depths, variant.widths) == ((1, 2, 8, 10, 1), widths)
    assert variant.strides == (2, 2, 2, 2, 2)
    assert variant.num_branches == num_branches


@pytest.mark.parametrize(
    ("name", "mmacs", "deploy_mparams", "training_mparams"),
    [
        ("mobileone_s0", 275, 2.1, 5.29),
        ("mobileone_s1", 825, 4.8, 4.83),
        ("mobileone_s2", 1299, 7.8, 7.88),
        ("mobileone_s3", 1896, 10.1, 10.17),
    ],
)
def test_costs_published_with_mobileone(
    name: str, mmacs: int, deploy_mparams: float, training_mparams: float
) -> None:
    with torch.device("meta"):
        network = MobileOne(MOBILEONE_VARIANTS[name], 1000)
    plain, counter = reparameterize(network), FlopCounterMode(display=False)
    with counter, torch.no_grad():
        plain(torch.empty(1, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() / 2e6 == pytest.approx(mmacs, abs=0.6)
    assert round(sum(p.numel() for p in plain.parameters()) / 1e6, 1) == deploy_mparams
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == training_mparams


def test_small_network_trains_and_names_its_blocks() -> None:
    torch.manual_seed(0)
    variant = MOBILEONE_VARIANTS["mobileone_small"]
    network = MobileOne(variant, 10, in_channels=1)
    blocks = [n for n, m in network.named_modules() if isinstance(m, MobileOneBlock)]
    assert blocks[:3] == ["stages.0.0", "stages.1.0.depthwise", "stages.1.0.pointwise"]
    assert len(blocks) == 1 + 2 * sum(variant.depths[1:])
    logits = network(torch.randn(4, 1, 32, 32))
    assert logits.shape == (4, 10)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert any(p.grad.abs().sum() > 0 for p in network.stages[0].parameters())
