"""The inverse of a field and landmarks in both directions."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from operators.deformation import (
    affine_field,
    compose,
    exponentiate,
    folded_share,
    identity_field,
    inverse_error,
    invert,
    points_to_fixed,
    points_to_moving,
    target_registration_error,
    warp,
)
from operators.errors import ConvergenceWarning
from operators.grid import Grid
from tests.operators.deformation.cases import (
    KINDS,
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

TURN = np.array([[0.2, -1, 0.5], [1, -0.4, 0.2], [0.1, 0.5, 0.3]])


def inner_points(grid: Grid, count: int = 7, seed: int = 1) -> Tensor:
    """Return world points in the middle half of the grid, (count, 3)."""
    shape = np.array(grid.shape)
    index = (0.25 + 0.5 * np.random.default_rng(seed).random((count, 3))) * (shape - 1)
    return torch.from_numpy(grid.index_to_world(index))


@pytest.mark.parametrize("kind", KINDS)
def test_the_inverse_of_an_affine_field_is_the_inverse_matrix(kind: str) -> None:
    grid = kinds((12, 13, 14))[kind]
    matrix = about_centre(np.eye(3) + 0.15 * TURN, grid)
    u = affine_field(matrix, grid, dtype=torch.float64)
    exact = affine_field(np.linalg.inv(matrix), grid, dtype=torch.float64)
    assert margin(spacing_norm(invert(u, grid) - exact, grid), grid, 4).max() < 1e-12


@pytest.mark.parametrize("grid", [oblique((24, 26, 28)), Grid.plane((64, 60), (1.0, 1.5))], ids=["3d", "2d"])
def test_warping_and_warping_back(grid: Grid) -> None:
    extent = max(n * s for n, s in zip(grid.shape, grid.spacing, strict=True))
    u = waves(grid, 0.05 * extent)
    w = invert(u, grid)
    assert inverse_error(u, w, grid).max() < 1e-4 * min(grid.spacing)
    # From the other side, where w is interpolated instead of u: less than a tenth of a voxel.
    assert margin(spacing_norm(compose(w, u, grid), grid), grid, 4).max() < 0.1
    # The image comes back up to two interpolations of it.
    image = smooth_image(grid)
    again = warp(warp(image, u, grid, boundary="edge"), w, grid, boundary="edge")
    shape = [n for n in grid.shape if n > 1]
    bound = 3 * len(shape) * sum((2 * math.pi / n) ** 2 / 8 for n in shape)
    assert margin(again - image, grid, 5).abs().max() < bound


def test_the_inverse_of_an_exponential_is_that_of_minus_the_velocity() -> None:
    grid = upright((20, 22, 24))
    v = waves(grid, 2.0)
    got, expected = invert(exponentiate(v, grid), grid), exponentiate(-v, grid)
    assert margin(spacing_norm(got - expected, grid), grid, 3).max() < 0.05


def test_strong_gradients_are_inverted_where_plain_iteration_diverges() -> None:
    # |du/dx| = 3: the fixed point w <- -u(r + w) moves away, Newton does not.
    grid = Grid.from_spacing((1, 1, 41), 1.0)
    x = positions(grid)[0]
    u = torch.zeros(3, 1, 1, 41, dtype=torch.float64)
    u[0] = 3 * x.clamp(-4, 4)
    w = invert(u, grid)
    assert (w[0] + 0.75 * x)[x.abs() <= 16].abs().max() < 1e-12
    assert inverse_error(u, w, grid).max() < 1e-12


def test_each_entry_of_a_batch_in_single_precision() -> None:
    grid = oblique((6, 7, 8))
    u = torch.stack([waves(grid, s).float() for s in (0.5, 1.0)])[:, None]
    w = invert(u, grid)
    assert w.shape == u.shape
    assert w.dtype == torch.float32
    assert (w[1, 0] - invert(u[1, 0], grid)).abs().max() < 1e-4 * 1.5
    assert inverse_error(u, w, grid).max() < 1e-4 * 1.5


def test_a_field_that_folds_is_told_with_the_share_that_has_no_inverse() -> None:
    grid = upright((1, 4, 32))
    x = torch.arange(32, dtype=torch.float64)
    u = torch.zeros(3, *grid.shape, dtype=torch.float64)
    u[0] = 12 * torch.sin(2 * math.pi * x / 32)
    assert folded_share(u, grid) > 0.1
    u[1] = torch.sign(torch.sin(x * 2.3)) * 6  # jumps: most positions are not reached at all
    with pytest.warns(ConvergenceWarning, match=r"invert left a share of 0\.\d+ above its tolerance.*folds"):
        w = invert(u, grid, max_iterations=20)
    assert torch.isfinite(w).all()


def test_too_few_iterations_are_told() -> None:
    grid = oblique((8, 9, 10))
    with pytest.warns(ConvergenceWarning, match="after 1 iterations"):
        invert(waves(grid, 3.0), grid, max_iterations=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        invert(waves(grid, 3.0), grid, max_iterations=1, tolerance=10.0)


def test_the_derivative_of_the_inverse() -> None:
    grid = oblique((2, 3, 3))
    u = waves(grid, 0.4).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: invert(a, grid, tolerance=1e-13), u, eps=1e-7, fast_mode=True)
    p = inner_points(grid, 3).requires_grad_()
    for move in (points_to_moving, points_to_fixed):
        assert torch.autograd.gradcheck(lambda a, b, f=move: f(a, grid, b), (u, p), fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_landmarks_of_an_affine_map(kind: str) -> None:
    grid = kinds((12, 13, 14))[kind]
    matrix = about_centre(np.eye(3) + 0.1 * TURN, grid, (0.5, 0.5, 0.5))
    u = affine_field(matrix, grid, dtype=torch.float64)
    p = inner_points(grid)
    q = p @ torch.from_numpy(matrix[:3, :3]).T + torch.from_numpy(matrix[:3, 3])
    assert (points_to_moving(u, grid, p) - q).abs().max() < 1e-11
    assert (points_to_fixed(u, grid, q) - p).abs().max() < 1e-11
    assert target_registration_error(u, grid, p, q).max() < 1e-11
    shift = torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64)
    assert (target_registration_error(u, grid, p, q + shift) - 5.0).abs().max() < 1e-11


def test_a_landmark_follows_what_it_marks() -> None:
    # A bright voxel at p of the moving image is seen, in the warped one, where points_to_fixed says.
    grid = upright((9, 30, 30))
    u = waves(grid, 3.0)
    p = torch.from_numpy(grid.index_to_world([4, 14, 16]))
    bell = torch.exp(-(positions(grid) - p[:, None, None, None]).square().sum(0) / (2 * 3.0**2))
    seen = warp(bell, u, grid)
    brightest = np.unravel_index(int(seen.argmax()), grid.shape)
    expected = grid.world_to_index(points_to_fixed(u, grid, p[None])[0].numpy())
    assert np.abs(np.array(brightest) - expected).max() <= 0.75


def test_batches_of_fields_and_of_points() -> None:
    grid = oblique((6, 7, 8))
    u = torch.stack([waves(grid, s) for s in (0.5, 1.0)])
    p = torch.stack([inner_points(grid, 4, seed=s) for s in (1, 2)])
    for move in (points_to_moving, points_to_fixed):
        assert torch.equal(move(u, grid, p)[1], move(u[1], grid, p[1]))
        assert torch.equal(move(u, grid, p[0])[1], move(u[1], grid, p[0]))
        assert torch.equal(move(u[0], grid, p)[1], move(u[0], grid, p[1]))
        assert (move(u[0], grid, p[1].float()) - move(u[0], grid, p[1])).abs().max() < 1e-4


GRID = oblique((3, 4, 5))
ZERO = identity_field(GRID, dtype=torch.float64)
POINTS = torch.zeros(2, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (lambda: invert(ZERO[:2], GRID), ValueError, "`u` must have shape"),
        (lambda: invert(ZERO, GRID, tolerance=0.0), ValueError, "`tolerance` must be a finite number > 0"),
        (
            lambda: invert(ZERO, GRID, max_iterations=0),
            ValueError,
            "`max_iterations` must be an integer >= 1",
        ),
        (lambda: invert(ZERO, GRID, boundary="wrap"), ValueError, "`boundary` must be"),
        (
            lambda: points_to_moving(ZERO, GRID, POINTS[0]),
            ValueError,
            r"`points` must have shape \(\.\.\., N",
        ),
        (lambda: points_to_moving(ZERO, GRID, POINTS[:, :2]), ValueError, "`points` must have shape"),
        (lambda: points_to_moving(ZERO, GRID, POINTS + 0j), TypeError, "`points` must be real"),
        (lambda: points_to_fixed(ZERO, GRID, POINTS * math.nan), ValueError, "`points` must hold finite"),
        (
            lambda: points_to_fixed(ZERO.expand(2, *ZERO.shape), GRID, POINTS.expand(3, 2, 3)),
            ValueError,
            "`points` must have batch axes that broadcast",
        ),
        (lambda: target_registration_error(ZERO, GRID, None, POINTS), TypeError, "`fixed_points` must be a"),
        (
            lambda: target_registration_error(ZERO, GRID, POINTS, POINTS[:1]),
            ValueError,
            "`moving_points` must have the shape of fixed_points",
        ),
    ],
)
def test_bad_arguments_are_named(attempt, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        attempt()
