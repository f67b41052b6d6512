"""Arithmetic of fields: composition and its order, affine maps, other grids, Jacobians, folding."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from operators.deformation import (
    FoldingError,
    FoldingWarning,
    affine_field,
    check_diffeomorphic,
    compose,
    folded_share,
    identity_field,
    jacobian,
    jacobian_determinant,
    resample_field,
    warp,
)
from operators.frame import DeviceFrame
from operators.grid import Grid, TimeAxis
from tests.operators.deformation.cases import (
    KINDS,
    ROTATION,
    about_centre,
    kinds,
    margin,
    oblique,
    positions,
    smooth_image,
    spacing_norm,
    upright,
    waves,
)

LINEAR = np.array([[1.05, -0.2, 0.1], [0.2, 0.9, 0.05], [0.0, 0.1, 1.03]])
MATRIX = np.block([[LINEAR, np.array([[2.0], [-1.0], [3.0]])], [np.zeros((1, 3)), np.ones((1, 1))]])


def constant(grid: Grid, *shift: float) -> Tensor:
    return torch.tensor(shift, dtype=torch.float64)[:, None, None, None].expand(3, *grid.shape)


@pytest.mark.parametrize("kind", KINDS)
def test_translations_add_exactly(kind: str) -> None:
    grid = kinds((5, 6, 7))[kind]
    got = compose(constant(grid, 1.3, -2.0, 0.7), constant(grid, 0.4, 0.5, -3.0), grid)
    assert spacing_norm(got - constant(grid, 1.7, -1.5, -2.3), grid).max() < 1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_affine_maps_compose_as_matrices_do_in_this_order(kind: str) -> None:
    grid = kinds((15, 16, 17))[kind]
    first = about_centre(LINEAR, grid, (2.0, -1.0, 3.0))
    second = about_centre(ROTATION @ np.diag([1.0, 0.9, 1.1]) @ ROTATION.T, grid)
    u, v = (affine_field(m, grid, dtype=torch.float64) for m in (first, second))
    both = affine_field(first @ second, grid, dtype=torch.float64)
    assert margin(spacing_norm(compose(u, v, grid) - both, grid), grid, 6).max() < 1e-12
    assert margin(spacing_norm(compose(v, u, grid) - both, grid), grid, 6).max() > 1e-2  # the order matters


def test_warping_by_a_composition_is_warping_twice() -> None:
    # Of a linear image, which interpolation keeps: exactly. W_(u o v) = W_v W_u.
    grid = oblique((12, 13, 14))
    u, v = waves(grid, 2.0), waves(grid, 2.0, seed=9)
    slope = torch.tensor([0.3, -1.1, 0.7], dtype=torch.float64)[:, None, None, None]
    linear = (slope * positions(grid)).sum(0)
    twice = warp(warp(linear, u, grid, boundary="edge"), v, grid, boundary="edge")
    once = warp(linear, compose(u, v, grid), grid, boundary="edge")
    other = warp(linear, compose(v, u, grid), grid, boundary="edge")
    assert margin(twice - once, grid, 4).abs().max() < 1e-11
    assert margin(twice - other, grid, 4).abs().max() > 1e-2
    # Of a curved image: up to the second interpolation, h^2 / 8 |x''| per axis.
    grid = upright((24, 48, 32))
    u, v = waves(grid, 2.0), waves(grid, 2.0, seed=9)
    image = smooth_image(grid)
    bound = sum((2 * math.pi / n) ** 2 / 8 for n in grid.shape) * 3
    difference = warp(warp(image, u, grid), v, grid) - warp(image, compose(u, v, grid), grid)
    assert margin(difference, grid, 4).abs().max() < bound


def test_a_field_on_another_grid_composes_as_if_it_were_resampled() -> None:
    grid, other = upright((6, 7, 8)), oblique((12, 14, 13))
    shift = other.centre - grid.centre
    other = Grid(other.shape, other.affine - np.outer(np.append(shift, 0), [0, 0, 0, 1]))
    u = affine_field(MATRIX, other, dtype=torch.float64)
    v = waves(grid, 0.5)
    dense = affine_field(MATRIX, grid, dtype=torch.float64)
    assert (resample_field(u, other, grid) - dense)[:, 1:-1, 1:-1, 1:-1].abs().max() < 1e-11
    expected = compose(dense, v, grid)
    got = compose(u, v, grid, u_grid=other)
    assert (got - expected)[:, 1:-1, 1:-1, 1:-1].abs().max() < 1e-11


def test_batches_of_fields_compose_one_by_one() -> None:
    grid = oblique((4, 5, 6))
    u = torch.stack([waves(grid, 1.0, seed=s) for s in (1, 2)])
    v = waves(grid, 1.0, seed=3)
    both = compose(u, v, grid)
    assert (both[1] - compose(u[1], v, grid)).abs().max() < 1e-14
    assert compose(u[:, None], torch.stack([v, -v, v]), grid).shape == (2, 3, 3, *grid.shape)


def test_affine_fields_of_matrices_and_frames() -> None:
    grid = oblique((3, 4, 5))
    r = positions(grid)
    u = affine_field(MATRIX, grid, dtype=torch.float64)
    moved = torch.einsum("ij,jzyx->izyx", torch.from_numpy(MATRIX[:3, :3]), r)
    moved = moved + torch.from_numpy(MATRIX[:3, 3])[:, None, None, None]
    assert (r + u - moved).abs().max() < 1e-12
    frame = DeviceFrame.from_axes(*ROTATION.T, origin=(1.0, 2.0, 3.0))
    assert torch.equal(affine_field(frame, grid), affine_field(frame.to_world, grid))
    assert not affine_field(np.eye(4), grid).any()
    rounded = MATRIX + np.array([0, 0, 0, 1])[:, None] * 1e-16  # as products of matrices leave the last row
    assert not np.array_equal(rounded[3], [0, 0, 0, 1])
    assert torch.equal(affine_field(rounded, grid, dtype=torch.float64), u)
    assert torch.equal(identity_field(grid), torch.zeros(3, 3, 4, 5))


@pytest.mark.parametrize("kind", KINDS)
def test_the_jacobian_of_an_affine_field_is_its_matrix(kind: str) -> None:
    grid = kinds((4, 5, 3))[kind]
    u = affine_field(MATRIX, grid, dtype=torch.float64)
    expected = torch.from_numpy(MATRIX[:3, :3])[..., None, None, None]
    assert (jacobian(u, grid) - expected).abs().max() < 1e-13
    determinant = np.linalg.det(MATRIX[:3, :3])
    assert (jacobian_determinant(u, grid) - determinant).abs().max() < 1e-13
    assert jacobian_determinant(u.float().expand(2, *u.shape), grid).sub(determinant).abs().max() < 1e-5


def test_a_slice_has_the_determinant_of_its_plane() -> None:
    grid = oblique((4, 8, 9)).slice_at(0, 2)
    axes = torch.from_numpy(grid.directions.copy())
    plane = torch.tensor([[1.0, 0, 0], [0, 1.3, 0.2], [0, -0.4, 0.8]], dtype=torch.float64)
    matrix = np.eye(4)
    matrix[:3, :3] = (axes @ plane @ axes.T).numpy()
    u = affine_field(matrix, grid, dtype=torch.float64)
    assert (jacobian_determinant(u, grid) - (1.3 * 0.8 + 0.2 * 0.4)).abs().max() < 1e-13


def test_the_jacobian_of_a_smooth_field_converges_to_second_order() -> None:
    errors = []
    for n in (16, 32):
        grid = Grid.from_spacing((1, 1, n), (1.0, 1.0, 64.0 / n))
        x = positions(grid)[0]
        u = torch.zeros(3, *grid.shape, dtype=torch.float64)
        u[0] = torch.sin(2 * math.pi * x / 64)
        exact = 1 + 2 * math.pi / 64 * torch.cos(2 * math.pi * x / 64)
        errors.append(float((jacobian_determinant(u, grid) - exact)[..., 1:-1].abs().max()))
    assert 3.5 < errors[0] / errors[1] < 4.5


def folding(grid: Grid) -> Tensor:
    """Return a field that mirrors the last quarter of the columns."""
    x = torch.arange(grid.shape[2], dtype=torch.float64)
    start = 3 * grid.shape[2] // 4
    steps = torch.where(x >= start, -2.0 * (x - start), 0.0)
    axis = torch.from_numpy(grid.affine[:3, 2].copy())[:, None, None, None]
    return axis * steps.expand(grid.shape)


def test_the_share_that_folds_is_counted_and_named() -> None:
    grid = oblique((2, 3, 16))
    u = folding(grid)
    # Mirrored after column 12: central differences see 0 at column 12 and -1 in 13, 14, 15.
    assert folded_share(u, grid).item() == pytest.approx(4 / 16)
    both = torch.stack([torch.zeros_like(u), u])
    assert folded_share(both, grid).tolist() == pytest.approx([0.0, 0.25])
    with pytest.raises(FoldingError, match=r"`u` must have a positive Jacobian .* share of 0\.25.*Smooth"):
        check_diffeomorphic(both, grid)
    with pytest.warns(FoldingWarning, match="share of 0.25"):
        assert check_diffeomorphic(both, grid, error=False) is both
    assert check_diffeomorphic(u, grid, limit=0.25) is u
    assert check_diffeomorphic(both[0], grid, strict=True) is not None


def test_strict_counting_sees_what_alternates() -> None:
    grid = upright((1, 6, 8))
    u = torch.zeros(3, *grid.shape, dtype=torch.float64)
    u[0] = 1.2 * (torch.arange(8) % 2 * 2.0 - 1)  # +-0.8 voxels: neighbours change places
    assert folded_share(u, grid) == 0
    assert folded_share(u, grid, strict=True) == 6 / 8  # all but the outer columns


def test_jacobians_are_differentiable() -> None:
    grid = oblique((2, 3, 3))
    u = waves(grid, 1.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: jacobian_determinant(a, grid), u, fast_mode=True)


GRID = oblique((3, 4, 5))
ZERO = identity_field(GRID)


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (lambda: compose(ZERO, ZERO.double(), GRID), TypeError, "`v` must have the dtype of u"),
        (lambda: compose(ZERO, ZERO[:2], GRID), ValueError, "`v` must have shape"),
        (lambda: compose(ZERO.to(torch.complex64), ZERO, GRID), TypeError, "`u` must be real"),
        (lambda: compose(ZERO, ZERO, GRID, u_grid=upright((2, 2, 2))), ValueError, "`u` must have shape"),
        (lambda: compose(ZERO, ZERO, GRID.with_time(TimeAxis(2))), ValueError, "must have no time axis"),
        (lambda: compose(ZERO, ZERO, GRID, boundary="wrap"), ValueError, "`boundary` must be"),
        (lambda: resample_field(ZERO, GRID, ZERO), TypeError, "`target` must be a Grid"),
        (lambda: affine_field(np.eye(3), GRID), ValueError, r"`matrix` must be a finite 4x4"),
        (lambda: affine_field("no", GRID), TypeError, r"`matrix` must be a 4x4 matrix of numbers"),
        (lambda: affine_field(2 * np.eye(4), GRID), ValueError, r"`matrix` must have the last row"),
        (lambda: affine_field(np.eye(4), GRID, dtype=torch.int32), TypeError, "`dtype` must be torch.float"),
        (lambda: jacobian(ZERO[..., :3], GRID), ValueError, "`u` must have shape"),
        (lambda: folded_share(ZERO * math.nan, GRID), ValueError, "`u` must hold finite values"),
        (
            lambda: check_diffeomorphic(ZERO, GRID, limit=-1.0),
            ValueError,
            "`limit` must be a finite number >= 0",
        ),
    ],
)
def test_bad_arguments_are_named(attempt, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        attempt()
