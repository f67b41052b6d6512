"""B-spline fields and the separable operator under them: contracts, closed forms, fits."""

import numpy as np
import pytest
import torch

from operators.deformation import BSplineField
from operators.grid import Grid, TimeAxis
from tests.contracts import LinearOperatorContract
from tests.operators.deformation.cases import kinds, oblique, positions, upright, waves
from tests.oracles import dense, random_element

SMALL = Grid.plane((5, 4), (2.0, 3.0), thickness=4.0)


class TestBSplineField(LinearOperatorContract):
    covers = (BSplineField,)

    def make(self, dtype: torch.dtype) -> BSplineField:
        return BSplineField(Grid.plane((3, 3), (4.0, 4.5), thickness=4.0), SMALL)


def cubic(t: torch.Tensor) -> torch.Tensor:
    """Return the cubic B-spline by its four polynomial pieces, each from its own formula."""
    s = t + 2
    pieces = [
        s**3 / 6,
        (-3 * (s - 1) ** 3 + 3 * (s - 1) ** 2 + 3 * (s - 1) + 1) / 6,
        (3 * (s - 2) ** 3 - 6 * (s - 2) ** 2 + 4) / 6,
        (4 - s) ** 3 / 6,
    ]
    total = torch.zeros_like(t)
    for k, piece in enumerate(pieces):
        total = torch.where((s >= k) & (s < k + 1), piece, total)
    return total


@pytest.mark.parametrize("kind", ["upright", "oblique", "left-handed"])
def test_equals_the_defining_sum_over_control_points(kind: str) -> None:
    grid = kinds((3, 5, 6))[kind]
    control = BSplineField.control_grid(grid, (5.0, 4.0, 6.0)).flip(1)
    op = BSplineField(control, grid)
    c = random_element(op.domain)
    place = torch.from_numpy(control.world_to_index(positions(grid).movedim(0, -1).numpy()))
    nodes = [torch.arange(n, dtype=torch.float64) for n in control.shape]
    z, y, x = (cubic(place[..., axis, None] - nodes[axis]) for axis in range(3))
    expected = torch.einsum("cabd,zyxa,zyxb,zyxd->czyx", c, z, y, x)
    assert (op(c) - expected).abs().max() < 1e-12


def test_constant_and_linear_coefficients_give_constant_and_linear_fields() -> None:
    grid = oblique((6, 7, 8))
    op = BSplineField(BSplineField.control_grid(grid, 7.0), grid)
    ones = torch.ones(op.domain.shape, dtype=torch.float64)
    assert (op(ones) - 1).abs().max() < 1e-13
    control = op.domain.grid
    assert control is not None
    assert (op(positions(control)) - positions(grid)).abs().max() < 1e-11


def test_the_control_grid_reaches_a_node_beyond_the_grid_on_each_side() -> None:
    for grid in (oblique((6, 7, 8)), upright((4, 9, 5)), SMALL):
        for spacing in ((5.0, 4.0, 6.0), (3.0, 9.0, 40.0)):
            control = BSplineField.control_grid(grid, spacing)
            corners = np.array(np.meshgrid(*[(0, n - 1) for n in grid.shape])).reshape(3, -1).T
            index = control.world_to_index(grid.index_to_world(corners))
            for axis, n in enumerate(grid.shape):
                if n == 1:
                    assert control.shape[axis] == 1
                    continue
                assert index[:, axis].min() >= 1 - 1e-9
                assert index[:, axis].max() <= control.shape[axis] - 2 + 1e-9
            assert np.allclose(control.centre, grid.centre)
            assert np.allclose(control.spacing, spacing)


def test_the_nearest_spline_to_a_smooth_field() -> None:
    grid = upright((8, 20, 16))
    op = BSplineField(BSplineField.control_grid(grid, (5.0, 5.0, 6.0)), grid)
    u = waves(grid, 3.0)
    fitted = op(op.pinv(u))
    assert (fitted - u).norm() < 0.02 * u.norm()
    # A projection: what it leaves is perpendicular to every spline, what is a spline stays.
    assert op.adjoint(fitted - u).abs().max() < 1e-10
    c = random_element(op.domain)
    assert (op(op.pinv(op(c))) - op(c)).abs().max() < 1e-10


def test_singular_values_are_those_of_the_dense_matrix() -> None:
    op = BSplineField(BSplineField.control_grid(SMALL, (4.0, 5.0, 6.0)), SMALL)
    expected = torch.linalg.svdvals(dense(op))
    got = op.svd().s.flatten().sort(descending=True).values
    assert (got[: len(expected)] - expected).abs().max() < 1e-12
    assert not got[len(expected) :].any()
    assert op.norm() == pytest.approx(float(expected[0]))


GRID = oblique((3, 4, 5))


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (
            lambda: BSplineField(upright((3, 3, 3)), GRID),
            ValueError,
            "`control_grid` must have its axes along",
        ),
        (
            lambda: BSplineField(GRID.permute((1, 2, 0)), GRID),
            ValueError,
            "`control_grid` must have its axes",
        ),
        (lambda: BSplineField(GRID, GRID.with_time(TimeAxis(2))), ValueError, "`grid` must have no time"),
        (lambda: BSplineField.control_grid(GRID, 0.0), ValueError, "`spacing"),
    ],
)
def test_bad_arguments_are_named(attempt, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        attempt()
