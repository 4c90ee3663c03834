import pytest
import torch
from torch import nn
from torch.nn import functional as F

from search_space.conv_norm import copy_norm, fuse_conv_norm, norm_as_affine, pad_kernel, strided


def _random_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.3).double().eval()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    norm.num_batches_tracked.fill_(7)
    return norm


@pytest.mark.parametrize("groups", [1, 4])
def test_conv_and_norm_fold_into_one_convolution(groups: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, 3, padding=1, groups=groups, bias=False).double()
    norm = _random_norm(8)
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    with torch.no_grad():
        folded = F.conv2d(x, *fuse_conv_norm(conv.weight, norm), padding=1, groups=groups)
        torch.testing.assert_close(folded, norm(conv(x)), rtol=0, atol=1e-12)


def test_norm_of_float32_is_affine_in_float64() -> None:
    torch.manual_seed(0)
    norm = _random_norm(5).float()
    scale, shift = norm_as_affine(norm)
    assert scale.dtype == shift.dtype == torch.float64
    x = torch.randn(3, 5, 2, 2)
    expected = x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
    torch.testing.assert_close(norm(x).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("small", "large"), [(1, 1), (1, 3), (3, 3), (1, 5), (3, 5)])
def test_padded_kernel_is_the_same_convolution(small: int, large: int) -> None:
    kernel = torch.randn(2, 3, small, small, dtype=torch.float64)
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    padded = pad_kernel(kernel, large)
    assert padded.shape == (2, 3, large, large)
    expected = F.conv2d(x, kernel, padding=small // 2)
    torch.testing.assert_close(F.conv2d(x, padded, padding=large // 2), expected)


@pytest.mark.parametrize(("size", "stride"), [(7, 2), (8, 2), (7, 3), (5, 1)])
def test_stride_before_a_1x1_convolution_is_its_stride(size: int, stride: int) -> None:
    x, kernel = torch.randn(2, 3, size, size), torch.randn(4, 3, 1, 1)
    expected = F.conv2d(x, kernel, stride=stride)
    torch.testing.assert_close(F.conv2d(strided(x, stride), kernel), expected)


def test_copied_norm_acts_as_the_source_on_the_kept_channels() -> None:
    torch.manual_seed(0)
    source, target, kept = _random_norm(6), nn.BatchNorm2d(3).double(), torch.tensor([0, 3, 4])
    copy_norm(source, target, kept)
    x = torch.randn(4, 6, 3, 3, dtype=torch.float64)
    for training in (False, True, False):  # the second run moves the statistics with momentum
        source.train(training)
        target.train(training)
        torch.testing.assert_close(target(x[:, kept]), source(x)[:, kept])
    assert int(target.num_batches_tracked) == 8
