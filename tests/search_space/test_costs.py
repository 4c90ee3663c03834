from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from search_space import Product, Width
from search_space.costs import Affine, BilinearCost, PeakCost

GROUPS = ["a", "b", "c"]
per_unit = st.dictionaries(st.sampled_from(GROUPS), st.integers(1, 9)).map(
    lambda counts: tuple(counts.items())
)
widths_of_axes = st.builds(Width, st.integers(0, 9), per_unit)
products = st.lists(
    st.builds(Product, st.just("layer"), st.integers(1, 1000), widths_of_axes, widths_of_axes),
    max_size=5,
)
widths = st.fixed_dictionaries({name: st.integers(0, 64) for name in GROUPS})


def _channels(axis: Width, given_widths: dict[str, int]) -> int:
    """One by one: the fixed channels, then those of every open unit."""
    count = axis.fixed
    for name, per_unit in axis.per_unit:
        for _ in range(given_widths[name]):
            count += per_unit
    return count


def _vector(given_widths: dict[str, int]) -> torch.Tensor:
    return torch.tensor([given_widths[name] for name in GROUPS], dtype=torch.float64)


@given(axis=widths_of_axes, at=widths)
def test_width_is_fixed_channels_plus_those_of_open_units(axis: Width, at: dict[str, int]) -> None:
    assert axis.of(at) == _channels(axis, at)
    assert Affine([axis, Width(3)], GROUPS)(_vector(at)).tolist() == [_channels(axis, at), 3]


@given(addends=products, at=widths)
def test_bilinear_cost_is_the_direct_sum_exactly(
    addends: list[Product], at: dict[str, int]
) -> None:
    expected = sum(p.coefficient * _channels(p.a, at) * _channels(p.b, at) for p in addends)
    assert BilinearCost(addends, GROUPS)(_vector(at)).item() == expected


@given(moments=st.lists(widths_of_axes, max_size=5), at=widths)
def test_peak_cost_is_the_largest_moment_exactly(moments: list[Width], at: dict[str, int]) -> None:
    expected = max([_channels(m, at) for m in moments], default=0)
    assert PeakCost(moments, GROUPS)(_vector(at)).item() == expected


@given(addends=products, at=widths)
def test_gradients_are_finite_differences(addends: list[Product], at: dict[str, int]) -> None:
    cost, vector = BilinearCost(addends, GROUPS), _vector(at).requires_grad_()
    (gradient,) = torch.autograd.grad(cost(vector) + 0 * vector.sum(), vector)
    for k in range(len(GROUPS)):
        step = torch.zeros(len(GROUPS), dtype=torch.float64)
        step[k] = 0.5  # a quadratic's central difference is its derivative
        at_k = vector.detach()
        assert gradient[k].item() == (cost(at_k + step) - cost(at_k - step)).item()


def test_gradient_of_a_peak_is_that_of_its_moment() -> None:
    cost = PeakCost([Width(10, (("a", 2),)), Width(0, (("a", 1), ("b", 4)))], GROUPS)
    at = torch.tensor([3.0, 5.0, 1.0], dtype=torch.float64, requires_grad=True)
    value = cost(at)
    assert value.item() == 23
    value.backward()
    assert at.grad is not None
    assert at.grad.tolist() == [1, 4, 0]


@pytest.mark.parametrize("shape", [(2,), (2, 3)])
def test_many_widths_at_once(shape: tuple[int, ...]) -> None:
    addends = [Product("l", 7, Width(1, (("a", 2),)), Width(0, (("c", 1),))), Product("m", 5)]
    moments = [Width(1, (("a", 3),)), Width(4, (("b", 1),))]
    at = torch.arange(3 * torch.Size(shape).numel()).reshape(*shape, 3).double()
    for cost in (BilinearCost(addends, GROUPS), PeakCost(moments, GROUPS)):
        every = cost(at)
        assert every.shape == shape
        for index in product(*map(range, shape)):
            assert every[index] == cost(at[index])


def test_large_counts_stay_exact() -> None:
    big = 2**26 + 1
    cost = BilinearCost([Product("l", 1, Width(0, (("a", 1),)), Width(0, (("b", 1),)))], GROUPS)
    assert int(cost(_vector({"a": big, "b": 2**26, "c": 0}))) == big * 2**26
