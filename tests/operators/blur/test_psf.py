import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import integrate

from operators.blur import Blur
from operators.blur.psf import PSF, BoxPSF, DiscPSF, GaussianPSF
from operators.blur.psf_sampled import MeasuredPSF, MotionPSF
from operators.grid import Grid
from operators.space import Space

GRID = Grid.from_spacing((20, 24, 28), (3.0, 2.0, 1.5))
TURN = np.array([[0.8, 0.0, -0.6], [0.0, 1.0, 0.0], [0.6, 0.0, 0.8]])


def moments(psf: PSF, grid: Grid = GRID) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the sum, the mean in mm from index k // 2, and the covariance in mm^2 of the kernel."""
    kernel = psf.kernel(grid).numpy()
    axes = [(np.arange(k) - k // 2) * h for k, h in zip(kernel.shape, grid.spacing, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    mean = np.einsum("zyx,zyxi->i", kernel, points)
    return kernel.sum(), mean, np.einsum("zyx,zyxi,zyxj->ij", kernel, points - mean, points - mean)


@pytest.mark.parametrize(
    "psf",
    [
        GaussianPSF((8.0, 6.0, 4.0), reach=7),
        GaussianPSF.from_sd(3.6, reach=7),
        GaussianPSF((12.0, 6.0, 7.0), tuple(map(tuple, TURN.tolist())), reach=7),  # type: ignore[arg-type]
        GaussianPSF.from_covariance(TURN @ np.diag([30.0, 8.0, 9.0]) @ TURN.T, reach=7),
    ],
)
def test_gaussians_have_the_stated_covariance(psf: GaussianPSF) -> None:
    total, mean, covariance = moments(psf)
    assert total == pytest.approx(1, abs=1e-14)
    assert np.abs(mean).max() < 1e-13
    # Sampled every h: a relative 8 pi^2 (sd / h)^2 exp(-2 pi^2 (sd / h)^2), here up to 1e-8; cut at 7 sd.
    assert np.abs(covariance - psf.covariance).max() < 1e-7 * psf.covariance.max()


def test_the_width_is_the_full_width_at_half_maximum() -> None:
    grid = Grid.from_spacing((1, 1, 81), (1.0, 1.0, 0.5))
    profile = GaussianPSF((0, 0, 10.0)).kernel(grid)[0, 0]
    centre = len(profile) // 2
    assert float(profile[centre + 10] / profile[centre]) == pytest.approx(0.5, rel=1e-12)  # 5 mm away


def test_widths_of_zero_do_nothing() -> None:
    for psf in (GaussianPSF(0.0), BoxPSF(0.0), BoxPSF((3.0, 2.0, 1.0))):
        assert psf.kernel(GRID).tolist() == [[[1.0]]]
    assert GaussianPSF((0, 5.0, 0)).kernel(GRID).shape[::2] == (1, 1)


def test_a_gaussian_in_the_world_does_not_depend_on_how_the_array_is_stored() -> None:
    world = TURN @ np.diag([30.0, 20.0, 12.0]) @ TURN.T
    kernel = GaussianPSF.in_world(world, GRID).kernel(GRID)
    stored = GRID.permute((1, 2, 0)).flip(1)
    other = GaussianPSF.in_world(world, stored).kernel(stored)
    assert (other - kernel.permute(1, 2, 0).flip(1)).abs().max() < 1e-14
    straight = GaussianPSF.in_world(np.diag([4.0, 9.0, 16.0]), GRID)  # R, A, S is x, y, z here
    assert straight.directions is None
    assert straight.fwhm == pytest.approx(tuple(2 * math.sqrt(2 * math.log(2)) * s for s in (4, 3, 2)))


@pytest.mark.parametrize("width", [(6.0, 10.0, 4.5), (3.0, 5.0, 1.6)])
def test_a_box_counts_voxels_by_their_part_inside(width: tuple[float, float, float]) -> None:
    kernel = BoxPSF(width).kernel(GRID)
    assert kernel.sum().item() == pytest.approx(1, abs=1e-15)
    for axis, (w, h) in enumerate(zip(width, GRID.spacing, strict=True)):
        profile = kernel.sum(dim=[a for a in range(3) if a != axis])
        assert profile[len(profile) // 2].item() == pytest.approx(min(h / w, 1))
        # Each end holds what the whole voxels inside leave over.
        left = (w - (len(profile) - 2) * h) / 2 / w if len(profile) > 1 else 1
        assert profile[0].item() == pytest.approx(left) == pytest.approx(profile[-1].item())


@pytest.mark.parametrize("radius", [0.4, 2.0, 5.3])
@pytest.mark.parametrize("normal", [0, 2])
def test_a_disc_has_exact_pixel_areas(normal: int, radius: float) -> None:
    kernel = DiscPSF(radius, normal).kernel(GRID).numpy().squeeze(normal)
    h, w = np.delete(np.array(GRID.spacing), normal)
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            u, v = (i - kernel.shape[0] // 2) * h, (j - kernel.shape[1] // 2) * w

            def chord(t: float, v: float = v) -> float:
                s = math.sqrt(max(radius**2 - t * t, 0))
                return max(min(v + w / 2, s) - max(v - w / 2, -s), 0)

            breaks = [t for t in (-radius, radius) if u - h / 2 < t < u + h / 2] or None
            area, _ = integrate.quad(chord, u - h / 2, u + h / 2, points=breaks, limit=200)
            assert kernel[i, j] == pytest.approx(area / (math.pi * radius**2), abs=1e-7)
    assert kernel.sum() == pytest.approx(1, abs=1e-14)


def test_a_plane_is_blurred_in_the_plane() -> None:
    plane = Grid.plane((24, 28), (2.0, 1.5), thickness=3.0)
    kernel = GaussianPSF(8.0).kernel(plane)
    assert kernel.shape[0] == 1
    ones = torch.ones(plane.shape, dtype=torch.float64)
    centre = Blur(Space.field(plane), GaussianPSF(4.0), "zero")(ones)[0, 12, 14]
    assert centre.item() == pytest.approx(1, abs=1e-12)


def test_values_can_be_changed_and_compared() -> None:
    assert GaussianPSF(2.0) == GaussianPSF((2.0, 2.0, 2.0))
    assert BoxPSF(2.0).with_(width=3.0) == BoxPSF(3.0)
    with pytest.raises(TypeError, match="`with_` must name one of .*Did you mean width"):
        BoxPSF(2.0).with_(widht=3.0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: GaussianPSF(-1.0), ValueError, r"`fwhm\[0\]` must be a finite number >= 0"),
        (lambda: GaussianPSF((1.0, 2.0)), ValueError, "`fwhm` must be one length in mm or three"),  # type: ignore[arg-type]
        (lambda: GaussianPSF("abc"), TypeError, r"`fwhm\[0\]` must be a finite number"),  # type: ignore[arg-type]
        (lambda: GaussianPSF(None), TypeError, "`fwhm` must be a length in mm or three"),  # type: ignore[arg-type]
        (lambda: GaussianPSF(2.0, reach=0), ValueError, "`reach` must be a finite number > 0"),
        (
            lambda: GaussianPSF(2.0, ((1, 0, 0), (0, 1, 0), (0, 1, 1))),
            ValueError,
            "`directions` must have orth",
        ),
        (
            lambda: GaussianPSF.from_covariance(np.diag([1, 1, -1])),
            ValueError,
            "`covariance` must be symmetric",
        ),
        (lambda: GaussianPSF.from_covariance(np.eye(2)), ValueError, "`covariance` must be a finite 3x3"),
        (lambda: GaussianPSF.from_covariance("x"), TypeError, "`covariance` must be a 3x3 matrix"),
        (lambda: BoxPSF(math.inf), ValueError, r"`width\[0\]` must be a finite number >= 0"),
        (lambda: DiscPSF(0.0), ValueError, "`radius` must be a finite number > 0"),
        (lambda: DiscPSF(1.0, 3), ValueError, "`normal` must name array axes"),
        (lambda: BoxPSF(1.0).kernel(None), TypeError, "`grid` must be a Grid"),  # type: ignore[arg-type]
        (
            lambda: GaussianPSF.from_covariance(TURN @ np.diag([30.0, 8.0, 0.5]) @ TURN.T).kernel(GRID),
            ValueError,
            "`fwhm` must be at least 3.532 mm in oblique directions",
        ),
    ],
)
def test_bad_functions(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_sheared_grid_is_refused() -> None:
    affine = GRID.affine.copy()
    affine[0, 0] = 1.0
    with pytest.raises(ValueError, match="`grid` must have perpendicular axes"):
        BoxPSF(4.0).kernel(Grid(GRID.shape, affine))


@pytest.mark.parametrize(
    "psf",
    [
        GaussianPSF(5000.0),
        GaussianPSF((5000.0, 5000.0, 4000.0), tuple(map(tuple, TURN.tolist()))),  # type: ignore[arg-type]
        BoxPSF(5000.0),
        DiscPSF(50000.0),
        MotionPSF(((0.0, 0.0, 0.0), (4000.0, 4000.0, 4000.0))),
        MeasuredPSF(torch.ones(9, 9, 9), 1000.0),
    ],
    ids=["gaussian", "oblique", "box", "disc", "motion", "measured"],
)
def test_lengths_in_another_unit_are_refused_before_their_kernel_is_made(psf: PSF) -> None:
    with pytest.raises(ValueError, match=r"`psf` must reach over 134217728 voxels at most.*in mm"):
        psf.kernel(GRID)


def test_a_plane_has_wide_kernels_without_its_depth() -> None:
    # 849 x 1274 x 1274 voxels before the first axis is summed.
    kernel = GaussianPSF(40.0).kernel(Grid.plane((9, 9), 0.2, thickness=0.3))
    assert kernel.shape == (1, 849, 849)
    assert float(kernel.sum()) == pytest.approx(1)
