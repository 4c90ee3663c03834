import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator

from search_space.interpolation import Interpolation

AXES = st.lists(st.integers(1, 100), min_size=1, max_size=6, unique=True).map(sorted)


@st.composite
def _grids(draw):
    x, y = draw(AXES), draw(AXES)
    values = draw(st.lists(st.floats(0, 100), min_size=len(x) * len(y), max_size=len(x) * len(y)))
    return x, y, torch.tensor(values, dtype=torch.float64).reshape(len(x), len(y))


def _scipy(grid, x, y):
    """scipy's bilinear interpolation at the nearest place within the grid."""
    xs, ys, values = grid
    # scipy wants two points per axis: repeat a single one.
    if len(xs) == 1:
        xs, values = [xs[0], xs[0] + 1], torch.cat([values, values], 0)
    if len(ys) == 1:
        ys, values = [ys[0], ys[0] + 1], torch.cat([values, values], 1)
    place = np.clip(x, xs[0], xs[-1]), np.clip(y, ys[0], ys[-1])
    return RegularGridInterpolator((xs, ys), values.numpy())(place).item()


@given(st.lists(_grids(), min_size=1, max_size=4), st.floats(0, 120), st.floats(0, 120))
def test_grids_of_any_sizes_agree_with_scipy(grids, x, y):
    size = len(grids)
    places = (torch.full((size,), place, dtype=torch.float64) for place in (x, y))
    found = Interpolation(grids)(*places)
    expected = [_scipy(grid, x, y) for grid in grids]
    assert found.tolist() == pytest.approx(expected, abs=1e-9)


@given(_grids())
def test_exact_at_grid_points(grid):
    xs, ys, values = grid
    x, y = torch.meshgrid(torch.tensor(xs).double(), torch.tensor(ys).double(), indexing="ij")
    found = Interpolation([grid])(x.unsqueeze(-1), y.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(found, values, rtol=1e-12, atol=1e-12)


def test_a_bilinear_function_and_its_gradient_are_reproduced():
    xs, ys = [1, 4, 9], [2, 3, 7, 8]
    x, y = torch.meshgrid(torch.tensor(xs).double(), torch.tensor(ys).double(), indexing="ij")
    grid = (xs, ys, 1 + 2 * x + 3 * y + 4 * x * y)
    x = torch.tensor([1.0, 3.3, 9.0], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([2.0, 5.5, 8.0], dtype=torch.float64, requires_grad=True)
    found = Interpolation([grid])(x.unsqueeze(-1), y.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(found, 1 + 2 * x + 3 * y + 4 * x * y)
    by_x, by_y = torch.autograd.grad(found.sum(), (x, y))
    assert torch.allclose(by_x, 2 + 4 * y)
    assert torch.allclose(by_y, 3 + 4 * x)


def test_gradient_equals_finite_differences_between_grid_points():
    generator = torch.Generator().manual_seed(0)
    grids = [
        ([1, 5, 9], [2, 4], torch.rand(3, 2, generator=generator).double()),
        ([3], [1, 2, 6, 10], torch.rand(1, 4, generator=generator).double()),
    ]
    x = torch.tensor([[2.5, 3.5], [7.1, 4.0]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[3.1, 1.5], [2.2, 7.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Interpolation(grids), (x, y))


def test_constant_outside_the_grid():
    grid = ([2, 4], [3, 5], torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
    x = torch.tensor([[0.0], [9.0]], dtype=torch.float64)
    assert Interpolation([grid])(x, x).tolist() == [[1.0], [5.0]]
