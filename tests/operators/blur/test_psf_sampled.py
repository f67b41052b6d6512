from collections.abc import Callable

import numpy as np
import pytest
import torch

from operators.blur import Blur
from operators.blur.psf import GaussianPSF
from operators.blur.psf_sampled import MeasuredPSF, MotionPSF
from operators.grid import Grid
from operators.space import Space
from tests.operators.blur.test_psf import moments

GRID = Grid.from_spacing((20, 24, 28), (3.0, 2.0, 1.5))
PATH = ((0.0, 0.0, 0.0), (4.1, -3.3, 2.2), (-1.0, 5.0, 2.2), (-1.0, 5.0, -7.7))


def line_moments(path: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the second moment matrix of a polygon with weight `shares` per segment."""
    a, b = path[:-1], path[1:]
    shares = shares / shares.sum()
    mean = (shares[:, None] * (a + b) / 2).sum(axis=0)
    second = sum(
        s * (np.outer(p, p) + np.outer(q, q) + (np.outer(p, q) + np.outer(q, p)) / 2) / 3
        for s, p, q in zip(shares, a, b, strict=True)
    )
    return mean, np.asarray(second)


@pytest.mark.parametrize("times", [None, (0.0, 1.0, 1.5, 4.0)])
def test_motion_has_the_moments_of_its_path(times: tuple[float, ...] | None) -> None:
    """Linear weights keep the sum, the mean and the mixed second moments; the squares grow."""
    psf = MotionPSF(PATH, times)
    total, mean, covariance = moments(psf)
    path = np.array(PATH)
    lengths = np.linalg.norm(np.diff(path, axis=0), axis=1)
    expected, second = line_moments(path, lengths if times is None else np.diff(times))
    assert total == pytest.approx(1, abs=1e-14)
    assert np.abs(mean - expected).max() < 1e-12
    got = covariance + np.outer(mean, mean)
    mixed = ~np.eye(3, dtype=bool)
    assert np.abs(got - second)[mixed].max() < 1e-12
    grown = np.diag(got - second)
    assert (grown >= 0).all() and (grown <= np.array(GRID.spacing) ** 2 / 4).all()


def test_motion_is_the_mean_of_the_linearly_interpolated_field_along_the_path() -> None:
    kernel = MotionPSF(PATH).kernel(GRID).numpy()
    steps, path = 4000, np.array(PATH) / GRID.spacing
    lengths = np.linalg.norm(np.diff(np.array(PATH), axis=0), axis=1)
    expected = np.zeros_like(kernel)
    for a, b, share in zip(path[:-1], path[1:], lengths / lengths.sum(), strict=True):
        points = a + (np.arange(steps)[:, None] + 0.5) / steps * (b - a) + np.array(kernel.shape) // 2
        low = np.floor(points).astype(int)
        for corner in np.ndindex(2, 2, 2):
            weight = np.prod(np.where(corner, points - low, 1 - points + low), axis=1)
            place = np.minimum(low + corner, np.array(kernel.shape) - 1)
            np.add.at(expected, tuple(place.T), share / steps * weight)
    assert np.abs(kernel - expected).max() < 1e-6  # the midpoint rule of 4000 steps


def test_motion_moves_the_image_along_the_path() -> None:
    """A shift by whole voxels, and the path in world coordinates as the grid sees it."""
    shift = MotionPSF(((3.0, -4.0, 1.5),))
    x = torch.zeros(GRID.shape, dtype=torch.float64)
    x[10, 10, 10] = 1
    moved = Blur(Space.field(GRID), shift, "zero")(x)
    assert moved.nonzero().tolist() == [[11, 8, 11]]
    assert MotionPSF.in_world([(1.5, -4.0, 3.0)], GRID).path == shift.path  # R, A, S is x, y, z here
    stored = GRID.flip(2)
    back = Blur(Space.field(stored), MotionPSF.in_world([(1.5, -4.0, 3.0)], stored), "zero")(x.flip(2))
    assert torch.equal(back, moved.flip(2))


@pytest.mark.parametrize("path", [((0.0, 0.0, 0.0),) * 3, ((3.0, 2.0, -1.5), (3.0, 2.0, -1.5))])
def test_a_path_that_stands_still_is_a_shift(path: tuple[tuple[float, float, float], ...]) -> None:
    assert torch.equal(MotionPSF(path).kernel(GRID), MotionPSF(path[:1]).kernel(GRID))


def test_a_measured_function_on_its_own_spacing_is_used_as_it_is() -> None:
    values = GaussianPSF((9.0, 6.0, 5.0)).kernel(GRID) * 7
    assert (MeasuredPSF(values, GRID.spacing).kernel(GRID) - values / 7).abs().max() < 1e-15


@pytest.mark.parametrize("spacing", [(1.0, 0.5, 0.5), (0.6, 0.4, 0.35)])
def test_fine_measurements_keep_their_moments_on_coarse_voxels(spacing: tuple[float, ...]) -> None:
    """Whole old voxels counted in new ones: the covariance grows by (H^2 - h^2) / 12 per axis."""
    fine = Grid.from_spacing((80, 80, 80), spacing)
    truth = GaussianPSF((12.0, 10.0, 8.0), reach=6)
    total, mean, covariance = moments(MeasuredPSF(truth.kernel(fine), spacing))  # type: ignore[arg-type]
    assert total == pytest.approx(1, abs=1e-14)
    assert np.abs(mean).max() < 1e-12
    grown = (np.array(GRID.spacing) ** 2 - np.array(spacing) ** 2) / 12
    # The centre of the part of an old voxel that lies in a new one is at most h / 2 away from its own.
    assert np.abs(np.diag(covariance - truth.covariance) - grown).max() < 0.35 * max(spacing) ** 2


def test_coarse_measurements_are_interpolated() -> None:
    coarse = Grid.from_spacing((40, 40, 40), (5.0, 5.0, 5.0))
    truth = GaussianPSF(25.0, reach=5)
    kernel = MeasuredPSF(truth.kernel(coarse), 5.0).kernel(GRID)
    expected = truth.kernel(GRID)
    profile = kernel[:, kernel.shape[1] // 2, kernel.shape[2] // 2]
    same = expected[:, expected.shape[1] // 2, expected.shape[2] // 2]
    offset = (len(profile) - len(same)) // 2
    # Linear interpolation errs by h^2 max|f''| / 8 per axis: 3 * 25 / (8 sd^2) = 8 % of the peak.
    assert (profile[offset : offset + len(same)] - same).abs().max() < 0.09 * same.max()


def test_the_centre_may_be_the_mass_or_the_peak() -> None:
    values = torch.zeros(5, 7, 9, dtype=torch.float64)
    values[1, 2, 3], values[1, 2, 4] = 3.0, 1.0
    _, mean, _ = moments(MeasuredPSF(values, GRID.spacing))
    assert mean == pytest.approx(np.array([-1, -1, -0.75]) * GRID.spacing)
    _, mean, _ = moments(MeasuredPSF(values, GRID.spacing, centre="mass"))
    assert np.abs(mean).max() < 1e-12
    kernel = MeasuredPSF(values, GRID.spacing, centre="peak").kernel(GRID)
    assert kernel[tuple(k // 2 for k in kernel.shape)] == 0.75


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: MotionPSF(()), ValueError, "`path` must have shape"),
        (lambda: MotionPSF((0.0, 1.0, 2.0)), ValueError, r"`path` must have shape \(points, 3\)"),  # type: ignore[arg-type]
        (lambda: MotionPSF(((0.0, np.nan, 0.0),)), ValueError, "`path` must hold finite values"),
        (lambda: MotionPSF(PATH, (0.0, 1.0)), ValueError, r"`times` must have one entry per point \(4\)"),
        (lambda: MotionPSF(PATH, (0.0, 2.0, 1.0, 3.0)), ValueError, "`times` must rise"),
        (lambda: MotionPSF(PATH, (1.0,) * 4), ValueError, "`times` must rise"),
        (lambda: MeasuredPSF(torch.ones(3, 3), 1.0), ValueError, "`values` must be real and have three axes"),
        (lambda: MeasuredPSF(-torch.ones(3, 3, 3), 1.0), ValueError, "`values` must have a positive sum"),
        (lambda: MeasuredPSF(torch.ones(3, 3, 3), 0.0), ValueError, r"`spacing\[0\]` must be a finite"),
        (lambda: MeasuredPSF(torch.ones(3, 3, 3), 1.0, "middle"), ValueError, "`centre` must be 'index'"),  # type: ignore[arg-type]
        (lambda: MeasuredPSF(np.ones((3, 3, 3)), 1.0), TypeError, "`values` must be a torch.Tensor"),  # type: ignore[arg-type]
    ],
)
def test_bad_functions(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
