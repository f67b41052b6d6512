"""Trajectories and their density: extents, spacings, areas in closed form, images gridded back."""

import math

import numpy as np
import pytest
import torch

from operators.frame import DeviceFrame
from operators.grid import Grid, TimeAxis
from operators.mri.density import density_weights
from operators.mri.noncartesian import NonCartesianGeometry
from operators.mri.trajectories import kooshball, radial, spiral, stack
from operators.mri.voronoi import cell_areas
from tests.operators.mri.kspace_oracle import relative

VOXEL = 2.0
GRID = Grid.plane((32, 28), VOXEL)


@pytest.mark.parametrize("angles", ["uniform", "golden"])
def test_spokes_are_diameters_through_the_centre(angles: str) -> None:
    k = radial(9, 16, VOXEL, angles=angles)  # type: ignore[arg-type]
    assert k.shape == (9, 16, 2)
    assert not k[:, 8].any()
    assert np.allclose(np.diff(k, axis=1), np.diff(k, axis=1)[:, :1])
    assert np.allclose(np.linalg.norm(k[:, 0], axis=-1), 0.25)
    assert np.allclose(np.linalg.norm(k[:, 9], axis=-1), 1 / (16 * VOXEL))
    turn = np.mod(np.arctan2(k[:, 9, 1], k[:, 9, 0]), math.pi)
    step = math.pi / 9 if angles == "uniform" else math.pi * (math.sqrt(5) - 1) / 2
    assert np.allclose(turn, np.mod(np.arange(9) * step, math.pi))


def test_golden_spokes_go_on_where_the_last_frame_ended() -> None:
    whole = radial(10, 8, VOXEL, angles="golden")
    assert np.array_equal(whole[6:], radial(4, 8, VOXEL, angles="golden", first=6))


def test_the_ends_of_a_kooshball_are_spread_evenly() -> None:
    k = kooshball(500, 8, VOXEL)
    ends = k[:, -1] / np.linalg.norm(k[:, -1], axis=-1, keepdims=True)
    # Of an even half sphere the mean of z is 1/2 and that of z^2, x^2, y^2 is 1/3.
    assert ends[:, 2].mean() == pytest.approx(0.5, abs=1e-3)
    assert np.abs((ends**2).mean(axis=0) - 1 / 3).max() < 5e-3
    both = np.concatenate([ends, -ends])
    nearest = np.sort(both @ both.T, axis=1)[:, -2]
    area = 4 * math.pi / len(both)
    assert np.arccos(nearest).min() > 0.4 * math.sqrt(area)  # at the rim, where the half spheres meet
    assert np.median(np.arccos(nearest)) > 0.9 * math.sqrt(area)


def test_neighbouring_turns_of_a_spiral_are_one_field_of_view_apart() -> None:
    field = 100.0
    k = spiral(4, 3000, VOXEL, field)
    assert np.linalg.norm(k, axis=-1).max() < 0.25
    # Along any ray from the centre the interleaves cross every 1 / FOV.
    distance = np.linalg.norm(k, axis=-1)
    angle = np.unwrap(np.arctan2(k[..., 1], k[..., 0]), axis=1)
    per_turn = 2 * math.pi * np.diff(distance, axis=1) / np.diff(angle, axis=1)
    assert np.allclose(per_turn[:, 1:] / 4, 1 / field, rtol=1e-9)
    pace = np.linalg.norm(np.diff(k, axis=1), axis=-1)
    assert pace.std() < 0.01 * pace.mean()


@pytest.mark.parametrize("factor", [1, 2])
def test_radial_weights_are_the_areas_of_their_sectors(factor: int) -> None:
    k = radial(40, 32 * factor, VOXEL)
    weights = density_weights(NonCartesianGeometry(k), GRID, "radial").numpy()
    count = 32 * 28
    # The disc |k| <= k_max and half a sample beyond at one end, half short at the other: to second order.
    assert weights.sum() == pytest.approx(math.pi / 4 * count, rel=2 / (32 * factor) ** 2)
    radii = np.linalg.norm(k, axis=-1)
    spacing = 1 / (32 * factor * VOXEL)
    expected = radii * spacing * math.pi / 40 * VOXEL**2 * count
    away = radii > 0.6 * spacing
    assert np.allclose(weights[away], expected[away])
    assert np.allclose(weights[~away], spacing**2 / 4 * math.pi / 40 * VOXEL**2 * count)


UPRIGHT = np.array([1.0, 0.0]).reshape(2, 1, 1)


def test_uneven_angles_share_the_circle_by_their_gaps() -> None:
    turn = np.array([0.0, 0.1, 1.0])
    k = (
        np.stack([np.outer(np.cos(turn), np.arange(-8, 8)), np.outer(np.sin(turn), np.arange(-8, 8))], -1)
        / 64
    )
    weights = density_weights(NonCartesianGeometry(k), GRID, "radial").sum(dim=1)
    gaps = [(0.1 + math.pi - 1.0) / 2, (0.1 + 0.9) / 2, (0.9 + math.pi - 1.0) / 2]
    assert np.allclose(weights / weights.sum(), np.array(gaps) / math.pi)


def test_spokes_from_the_centre_cover_the_disc_once() -> None:
    turn = 2 * math.pi * np.arange(50) / 50
    radii = np.arange(20) / 80
    k = np.stack([np.outer(np.cos(turn), radii), np.outer(np.sin(turn), radii)], axis=-1)
    total = float(density_weights(NonCartesianGeometry(k), GRID, "radial").sum())
    reach = 19.5 / 80
    assert total == pytest.approx(math.pi * reach**2 * VOXEL**2 * 32 * 28, rel=1e-12)


def test_balls_and_stacks_have_their_volumes() -> None:
    grid = Grid.from_spacing((8, 10, 12), (3.0, VOXEL, VOXEL))
    count = 8 * 10 * 12
    ball = NonCartesianGeometry(kooshball(60, 40, 3.0))
    total = float(density_weights(ball, grid, "radial").sum()) / count
    assert total == pytest.approx(math.pi / 6 * (VOXEL / 3.0) ** 2, rel=0.01)  # 3 / 40^2 and less
    stars = NonCartesianGeometry(stack(radial(20, 24, VOXEL), (np.arange(8) - 4) / 24.0))
    total = float(density_weights(stars, grid, "radial").sum()) / count
    assert total == pytest.approx(math.pi / 4, rel=2 / 24**2)


@pytest.mark.parametrize("path", ["radial", "golden", "spiral"])
@pytest.mark.parametrize("method", ["pipe", "voronoi"])
def test_weighted_gridding_gives_a_smooth_image_back(path: str, method: str) -> None:
    k = {
        "radial": lambda: radial(80, 64, VOXEL),
        "golden": lambda: radial(80, 64, VOXEL, angles="golden"),
        "spiral": lambda: spiral(16, 200, VOXEL, 80.0),
    }[path]()
    geometry = NonCartesianGeometry(k)
    op = geometry.operator(GRID)
    y, x = np.mgrid[:32, :28]
    blob = torch.from_numpy(np.exp(-((y - 15.0) ** 2 + (x - 13.0) ** 2) / 18.0))[None].to(torch.complex128)
    weights = density_weights(geometry, GRID, method)  # type: ignore[arg-type]
    assert weights.shape == k.shape[:-1]
    assert (weights > 0).all()
    # The blob has nothing beyond the disc of k-space; what is left is the method's own error.
    assert relative(op.adjoint(weights * op(blob)), blob) < 0.05
    bare = op.adjoint(op(blob))
    assert relative(bare * (blob.abs().sum() / bare.abs().sum()), blob) > 0.2


def test_three_dimensions_are_weighed_by_iteration() -> None:
    grid = Grid.from_spacing((8, 8, 8), VOXEL)
    geometry = NonCartesianGeometry(kooshball(200, 16, VOXEL))
    iterated = density_weights(geometry, grid, "pipe")
    closed = density_weights(geometry, grid, "radial")
    far = np.linalg.norm(geometry.trajectory, axis=-1) > 0.08
    ratio = (iterated / closed)[far & (np.arange(16) > 0)]
    assert ratio.median() == pytest.approx(1.0, abs=0.15)


def test_frames_are_weighed_one_by_one() -> None:
    path = np.stack([radial(12, 16, VOXEL, angles="golden", first=12 * t) for t in range(2)])
    series = density_weights(NonCartesianGeometry(path), GRID.with_time(TimeAxis(2)), "radial")
    assert torch.equal(series[1], density_weights(NonCartesianGeometry(path[1]), GRID, "radial"))


def test_weights_do_not_depend_on_how_the_scanner_stands() -> None:
    frame = DeviceFrame.from_axes((0, 1, 0), (0, 0, 1), (1, 0, 0))
    turned = Grid(GRID.shape, frame.to_world @ GRID.affine)
    k = spiral(6, 60, VOXEL, 60.0)
    here = density_weights(NonCartesianGeometry(k), GRID, "voronoi")
    there = density_weights(NonCartesianGeometry(k, frame=frame), turned, "voronoi")
    assert relative(there, here) < 1e-9


def test_cells_of_a_lattice_are_its_squares_and_doubles_share() -> None:
    x, y = np.meshgrid(np.arange(9.0), np.arange(7.0))
    points = np.stack([x.ravel(), y.ravel()], axis=-1)
    areas = cell_areas(np.concatenate([points, points[:1], points[30:31]]))
    inner = (points[:, 0] % 8 > 0) & (points[:, 1] % 6 > 0)
    kept = np.arange(len(points)) != 30
    assert np.allclose(areas[: len(points)][inner & kept], 1.0)
    assert areas[30] == areas[-1] == pytest.approx(0.5)
    # Cut half a spacing outside along the axes; the corners of the square are rounded off a little.
    assert areas.sum() == pytest.approx(63.0, rel=0.01)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: radial(0, 8, 1.0), ValueError, "`spokes` must be an integer >= 1"),
        (lambda: radial(4, 8, 0.0), ValueError, "`voxel` must be a finite number > 0"),
        (lambda: radial(4, 8, 1.0, angles="even"), ValueError, "`angles` must be"),
        (lambda: spiral(4, 1, 1.0, 10.0), ValueError, "`samples` must be an integer >= 2"),
        (lambda: stack(np.zeros((3, 3)), [0.0]), ValueError, "`plane` must have shape"),
        (lambda: stack(radial(2, 4, 1.0), 0.0), TypeError, "`partitions` must be a list"),
        (
            lambda: weigh(spiral(4, 30, VOXEL, 60.0), "radial"),
            ValueError,
            "have straight spokes through k = 0",
        ),
        (lambda: weigh(radial(2, 8, VOXEL) * UPRIGHT, "radial"), ValueError, "spokes of some length"),
        (
            lambda: weigh(radial(1, 8, VOXEL), "voronoi"),
            ValueError,
            "at least four samples that span a plane",
        ),
        (lambda: weigh(radial(4, 8, VOXEL), "area"), ValueError, "`method` must be"),
        (lambda: density_weights(GRID, GRID), TypeError, "`geometry` must be a NonCartesianGeometry"),
        (
            lambda: density_weights(
                NonCartesianGeometry(kooshball(9, 8, VOXEL)), Grid.from_spacing((8, 8, 8), VOXEL), "voronoi"
            ),
            ValueError,
            "`grid` must encode two axes",
        ),
    ],
)
def test_bad_trajectories(make: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()  # type: ignore[operator]


def weigh(k: np.ndarray, method: str) -> torch.Tensor:
    return density_weights(NonCartesianGeometry(k), GRID, method)  # type: ignore[arg-type]
