"""Property tests of the frame: random oblique, flipped, anisotropic affines; round trips to 1e-9 mm."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.grid import Grid, TimeAxis

NEAR = 1e-9

angles = st.floats(-math.pi, math.pi)
lengths = st.floats(0.05, 20.0)
offsets = st.floats(-2000.0, 2000.0)
counts = st.integers(1, 40)


def rotation(a: float, b: float, c: float) -> NDArray[np.float64]:
    """Return the rotation by `a`, `b`, `c` about the three axes."""
    (ca, cb, cc), (sa, sb, sc) = np.cos([a, b, c]), np.sin([a, b, c])
    about_x = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    about_y = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    about_z = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)


@st.composite
def grids(draw: Callable[[st.SearchStrategy[float]], float]) -> Grid:
    """Return a grid at any rotation, handedness, spacing and place."""
    affine = np.eye(4)
    axes = rotation(draw(angles), draw(angles), draw(angles))
    signs = [draw(st.sampled_from([-1.0, 1.0])) for _ in range(3)]
    affine[:3, :3] = axes * signs * [draw(lengths) for _ in range(3)]
    affine[:3, 3] = [draw(offsets) for _ in range(3)]
    return Grid(tuple(int(draw(counts)) for _ in range(3)), affine)  # type: ignore[arg-type]


def corners(grid: Grid) -> NDArray[np.float64]:
    """Return the index of each corner voxel."""
    ends = np.meshgrid(*[(0, n - 1) for n in grid.shape])
    return np.array(ends, dtype=float).reshape(3, -1).T


def apart(first: Grid, second: Grid) -> float:
    """Return the largest distance in mm between the same corner of two grids."""
    assert first.shape == second.shape
    return float(np.abs(first.index_to_world(corners(first)) - second.index_to_world(corners(second))).max())


@given(grids())
def test_index_and_world_are_inverse(grid: Grid) -> None:
    points = grid.index_to_world(corners(grid))
    assert np.abs(grid.index_to_world(grid.world_to_index(points)) - points).max() < NEAR
    assert grid.spacing == pytest.approx(np.linalg.norm(grid.affine[:3, :3], axis=0).tolist())


@given(grids(), st.sets(st.sampled_from([0, 1, 2])))
def test_flip_keeps_every_voxel_in_place(grid: Grid, axes: set[int]) -> None:
    flipped = grid.flip(*axes)
    index = corners(grid)
    mirrored = index.copy()
    for axis in axes:
        mirrored[:, axis] = grid.shape[axis] - 1 - index[:, axis]
    assert np.abs(flipped.index_to_world(mirrored) - grid.index_to_world(index)).max() < NEAR
    assert apart(flipped.flip(*axes), grid) < NEAR


@given(grids(), st.permutations([0, 1, 2]))
def test_permute_keeps_every_voxel_in_place(grid: Grid, order: list[int]) -> None:
    turned = grid.permute(order)
    index = corners(grid)
    assert np.abs(turned.index_to_world(index[:, order]) - grid.index_to_world(index)).max() < NEAR
    assert apart(turned.permute(np.argsort(order).tolist()), grid) < NEAR


@given(grids(), st.tuples(*[st.integers(0, 5)] * 3), st.tuples(*[st.integers(0, 5)] * 3))
def test_pad_then_crop_is_nothing(grid: Grid, before: tuple[int, ...], after: tuple[int, ...]) -> None:
    padded = grid.pad(before, after)
    assert (
        np.abs(padded.index_to_world(corners(grid) + before) - grid.index_to_world(corners(grid))).max()
        < NEAR
    )
    back = padded.crop(before, [b + n for b, n in zip(before, grid.shape, strict=True)])
    assert apart(back, grid) < NEAR


@given(grids(), st.tuples(*[st.integers(1, 4)] * 3))
def test_downsampled_voxels_are_centred_on_their_blocks(grid: Grid, factor: tuple[int, ...]) -> None:
    fine = Grid(tuple(n * f for n, f in zip(grid.shape, factor, strict=True)), grid.affine)  # type: ignore[arg-type]
    coarse = fine.downsample(factor)
    assert coarse.shape == grid.shape
    block = np.stack(np.meshgrid(*[np.arange(f) for f in factor], indexing="ij"), axis=-1).reshape(-1, 3)
    for index in corners(coarse):
        middle = fine.index_to_world(index * factor + block).mean(axis=0)
        assert np.abs(coarse.index_to_world(index) - middle).max() < NEAR
    assert np.abs(coarse.centre - fine.centre).max() < NEAR
    volume = math.prod(factor) * fine.voxel_volume
    assert coarse.voxel_volume == pytest.approx(volume, rel=1e-9)


@given(grids(), st.tuples(*[lengths] * 3))
def test_resampled_grid_keeps_centre_and_directions(grid: Grid, spacing: tuple[float, ...]) -> None:
    other = grid.resample(spacing=spacing)
    assert np.allclose(other.spacing, spacing, rtol=1e-12)
    assert np.abs(other.centre - grid.centre).max() < NEAR
    assert np.allclose(other.directions, grid.directions, atol=1e-12)
    missing = np.array(grid.shape) * grid.spacing - np.array(other.shape) * spacing
    one_voxel = np.array(other.shape) == 1
    assert (np.abs(missing) <= 0.5001 * np.array(spacing))[~one_voxel].all()


@given(grids(), st.tuples(*[counts] * 3))
def test_resampled_shape_keeps_the_outer_faces(grid: Grid, shape: tuple[int, ...]) -> None:
    other = grid.resample(shape=shape)
    face = -0.5 * np.ones(3)
    assert np.abs(other.index_to_world(face) - grid.index_to_world(face)).max() < NEAR
    opposite = np.array(other.shape) - 0.5
    assert (
        np.abs(other.index_to_world(opposite) - grid.index_to_world(np.array(grid.shape) - 0.5)).max() < NEAR
    )


@given(grids())
def test_nifti_and_napari_orders(grid: Grid) -> None:
    index = corners(grid)
    world = grid.index_to_world(index)
    homogeneous = np.c_[index, np.ones(len(index))]
    # NIfTI: index (x, y, z), world (R, A, S).
    nifti = (homogeneous[:, [2, 1, 0, 3]] @ grid.nifti_affine.T)[:, :3]
    assert np.abs(nifti - world).max() < NEAR
    # napari: index (z, y, x), world (S, -A, -R): rows run down the screen, columns to the right.
    napari = (homogeneous @ grid.napari_affine.T)[:, :3]
    assert np.abs(napari - world[:, ::-1] * [1, -1, -1]).max() < NEAR
    assert apart(Grid.from_nifti(grid.shape[::-1], grid.nifti_affine), grid) < NEAR


def test_conventions_on_a_grid_one_can_imagine() -> None:
    """Axial slices, patient's right first, posterior first, feet first: index grows to R, A, S."""
    grid = Grid.from_spacing((10, 20, 30), (5.0, 1.0, 2.0), centre=(100.0, 0.0, -50.0))
    assert grid.orientation == "SAR"
    assert np.allclose(grid.centre, (100.0, 0.0, -50.0))
    step = grid.index_to_world([1, 0, 0]) - grid.index_to_world([0, 0, 0])
    assert np.allclose(step, (0, 0, 5))
    # The geometric centre is (N - 1) / 2, the FFT centre N // 2: half a voxel apart for even N.
    assert np.allclose(grid.world_to_index(grid.centre), (4.5, 9.5, 14.5))
    # In napari a step to the patient's right moves to the left of the screen, one to anterior up.
    assert np.allclose(grid.napari_affine[:3, 2], (0, 0, -2))
    assert np.allclose(grid.napari_affine[:3, 1], (0, -1, 0))
    assert np.allclose(grid.napari_affine[:3, 0], (5, 0, 0))


def test_a_plane_is_one_slice_with_a_thickness() -> None:
    plane = Grid.plane((4, 6), (2.0, 1.0), thickness=8.0)
    assert plane.shape == (1, 4, 6)
    assert plane.spacing == (8.0, 2.0, 1.0)
    assert plane.is_plane


def test_time_is_an_axis_apart() -> None:
    still = Grid.from_spacing((3, 4, 5), 1.0)
    moving = still.with_time(TimeAxis(8, step=0.05, start=0.1))
    assert moving.shape == (3, 4, 5)
    assert moving.array_shape == (8, 3, 4, 5)
    assert moving != still
    assert not moving.matches(still)
    assert moving.flip(0).crop((0, 0, 0), (1, 4, 5)).time == moving.time
    assert moving.with_time(None) == still


def test_equal_grids_are_equal_and_hash_alike() -> None:
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    signed_zero = affine.copy()
    signed_zero[0, 1] = -0.0
    assert Grid((2, 3, 4), affine) == Grid((2, 3, 4), signed_zero)
    assert hash(Grid((2, 3, 4), affine)) == hash(Grid((2, 3, 4), signed_zero))
    moved = affine.copy()
    moved[0, 3] = 1e-7
    assert Grid((2, 3, 4), affine) != Grid((2, 3, 4), moved)
    assert Grid((2, 3, 4), affine).matches(Grid((2, 3, 4), moved))
    assert not Grid((2, 3, 4), affine).matches(Grid((2, 3, 4), moved), tolerance=1e-8)


def test_a_grid_cannot_be_changed_behind_its_back() -> None:
    affine = np.eye(4)
    grid = Grid((2, 3, 4), affine)
    affine[0, 3] = 99.0
    assert grid.affine[0, 3] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 3] = 1.0
    with pytest.raises(AttributeError):
        grid.shape = (1, 1, 1)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Grid((2, 2, 2), np.diag([1, 0, 1, 1])), ValueError, "`affine` must be invertible"),
        (
            lambda: Grid((2, 2, 2), np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])),
            ValueError,
            "`affine` must be invertible: three axes that span space",
        ),
        (lambda: Grid((2, 2, 2), np.eye(3)), ValueError, r"`affine` must have shape \(4, 4\), got \(3, 3\)"),
        (lambda: Grid((2, 2, 2), np.full((4, 4), np.nan)), ValueError, "`affine` must hold finite values"),
        (
            lambda: Grid((2, 2, 2), 2 * np.eye(4)),
            ValueError,
            r"`affine` must have the last row \(0, 0, 0, 1\)",
        ),
        (lambda: Grid((2, 2, 2), "eye"), ValueError, "`affine` must be a 4x4 matrix"),
        (lambda: Grid((2, 0, 2), np.eye(4)), ValueError, r"`shape\[1\]` must be an integer >= 1, got 0"),
        (lambda: Grid((2, 2), np.eye(4)), ValueError, "`shape` must have three entries"),
        (lambda: Grid((2, 2.5, 2), np.eye(4)), TypeError, r"`shape\[1\]` must be an integer >= 1, got 2.5"),
        (
            lambda: Grid.from_spacing((2, 2, 2), (1, -1, 1)),
            ValueError,
            r"`spacing\[1\]` must be a finite number > 0",
        ),
        (lambda: Grid.from_spacing((2, 2, 2), (1, 1)), ValueError, "`spacing` must be one length in mm or 3"),
        (
            lambda: Grid.plane((2, 2), 1.0, thickness=0),
            ValueError,
            "`thickness` must be a finite number > 0, got 0",
        ),
        (lambda: Grid.plane((2, 2, 2), 1.0), ValueError, "`shape` must have two entries"),
        (lambda: TimeAxis(0), ValueError, "`count` must be an integer >= 1"),
        (lambda: TimeAxis(3, step=-1), ValueError, "`step` must be a finite number > 0"),
    ],
)
def test_bad_grids(build: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.crop((0, 0, 0), (5, 4, 4)), r"`stop` must lie above start .* Use pad\(\)"),
        (lambda g: g.crop((2, 0, 0), (2, 4, 4)), "`stop` must lie above start"),
        (lambda g: g.crop((-1, 0, 0), (2, 4, 4)), r"`start\[0\]` must be an integer >= 0, got -1"),
        (lambda g: g.pad(-1), r"`before\[0\]` must be an integer >= 0"),
        (lambda g: g.flip(3), "`axes` must name array axes 0, 1 or 2"),
        (lambda g: g.permute((0, 1)), "`order` must name each of the axes"),
        (lambda g: g.permute((0, 1, 1)), "`order` must name array axes"),
        (lambda g: g.downsample(3), r"`factor` must divide the shape \(4, 4, 4\), got \(3, 3, 3\)"),
        (lambda g: g.resample(), "`spacing` must be given, or `shape`, and not both"),
        (lambda g: g.resample(spacing=1, shape=(1, 1, 1)), "and not both"),
        (lambda g: g.slice_at(0, 4), r"`index` must lie in 0..3 along axis 0, got 4"),
        (lambda g: g.index_to_world([1, 2]), r"`index` must have shape \(\.\.\., 3\), got \(2,\)"),
    ],
)
def test_bad_changes(change: Callable[[Grid], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        change(Grid.from_spacing((4, 4, 4), 1.0))
