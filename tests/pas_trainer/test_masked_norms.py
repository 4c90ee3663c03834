import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pas_trainer.masked_norms import masked_group_norm, masked_layer_norm, masked_norms


def _draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@settings(max_examples=30)
@given(is_open=st.lists(st.booleans(), min_size=1, max_size=9).filter(any), seed=st.integers(0, 99))
def test_layer_norm_is_that_of_the_open_channels(is_open: list[bool], seed: int) -> None:
    channels, kept = len(is_open), torch.tensor(is_open)
    x, weight, bias = _draw(2, 3, channels, seed=seed), _draw(channels), _draw(channels, seed=1)
    for b in (bias, None):
        got = masked_layer_norm(x, (channels,), weight, b, 1e-3, mask=kept.double())
        small = F.layer_norm(
            x[..., kept], (sum(is_open),), weight[kept], None if b is None else b[kept], 1e-3
        )
        torch.testing.assert_close(got[..., kept], small, rtol=1e-10, atol=1e-10)


@settings(max_examples=30)
@given(
    groups=st.integers(1, 3),
    is_open=st.lists(st.booleans(), min_size=1, max_size=4).filter(any),
    seed=st.integers(0, 99),
)
def test_group_norm_is_that_of_the_open_channels(
    groups: int, is_open: list[bool], seed: int
) -> None:
    kept = torch.tensor(is_open * groups)
    channels = len(kept)
    x, weight, bias = _draw(2, channels, 3, 2, seed=seed), _draw(channels), _draw(channels, seed=1)
    for b in (bias, None):
        got = masked_group_norm(x, groups, weight, b, 1e-3, mask=kept.double())
        small = F.group_norm(x[:, kept], groups, weight[kept], None if b is None else b[kept], 1e-3)
        torch.testing.assert_close(got[:, kept], small, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("groups", [None, 2])
def test_gradient_in_the_mask_is_a_finite_difference(groups: int | None) -> None:
    x, weight, bias = _draw(2, 6, 3), _draw(6, seed=1), _draw(6, seed=2)
    factors = _draw(2, 6, 3, seed=3)

    def loss(mask: Tensor) -> Tensor:
        if groups is None:
            rows = x.transpose(1, 2)
            normed = masked_layer_norm(rows, (6,), weight, bias, mask=mask).transpose(1, 2)
        else:
            normed = masked_group_norm(x, groups, weight, bias, mask=mask)
        return (normed * factors).sum()

    mask = torch.tensor([1, 0, 1, 1, 1, 0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(mask), mask)
    for k in range(6):
        step = torch.zeros(6, dtype=torch.float64)
        step[k] = 1e-5
        with torch.no_grad():
            difference = (loss(mask + step) - loss(mask - step)) / 2e-5
        assert gradient[k].item() == pytest.approx(difference.item(), rel=1e-6, abs=1e-8)
        assert gradient[k] != 0


class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.group, self.layer, self.other = nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.LayerNorm(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = x.movedim(1, -1)
        by_keyword = F.layer_norm(
            weight=self.layer.weight, bias=self.layer.bias, normalized_shape=(4,), input=rows
        )
        return self.group(x), by_keyword, self.other(rows)


def test_only_norms_with_a_mask_are_replaced_inside_modules_and_functions() -> None:
    model, x = Norms().double(), _draw(3, 4, 5)
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    plain = model(x)
    with masked_norms({id(model.group.weight): mask, id(model.layer.weight): mask}):
        group, layer, other = model(x)
    open_only = F.group_norm(x[:, ::2], 2)
    torch.testing.assert_close(group[:, ::2], open_only, rtol=1e-9, atol=1e-9)
    rows = F.layer_norm(x[:, ::2].movedim(1, -1), (2,))
    torch.testing.assert_close(layer[..., ::2], rows, rtol=1e-9, atol=1e-9)
    assert torch.equal(other, plain[2])
    assert all(torch.equal(a, b) for a, b in zip(model(x), plain, strict=True))


def test_an_open_mask_changes_nothing() -> None:
    model, x = Norms().double(), _draw(3, 4, 5)
    ones = torch.ones(4, dtype=torch.float64)
    plain = model(x)
    with masked_norms({id(model.group.weight): ones, id(model.layer.weight): ones}):
        for ours, theirs in zip(model(x), plain, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
