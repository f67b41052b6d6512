"""Volumes a detector column at a time: which scans have columns, and that they are those of ray after ray."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("numba", reason="the compiled engines need the [ct] extra")

from operators.compiled import njit
from operators.ct import (
    Geometry,
    ParallelBeamGeometry,
    Projector,
    lane_interpolation,
    numba_columns,
    numba_volume,
    volume_columns,
)
from operators.ct.lane_interpolation import BUFFERS, LANES, STEEPEST
from operators.ct.rays import VolumeRays
from operators.ct.volume_columns import Columns
from operators.frame import DeviceFrame
from operators.grid import Grid
from tests.operators.ct.engine_contract import EngineContract
from tests.operators.ct.volume_scans import CONE, CURVED, FAN, SAGS, SPOTS, TILTED, UPRIGHT, oblique

pytestmark = pytest.mark.filterwarnings("ignore::operators.ct.coverage.CoverageWarning")

#: Sums of tens of rounded products.
ROUNDING = {torch.float32: 2e-6, torch.float64: 1e-12}
TURNS = {0: np.eye(3), 1: np.eye(3)[[2, 0, 1]], 2: np.eye(3)[[1, 2, 0]]}
FAR = CONE.with_(source_to_axis=40.0, source_to_detector=58.0)
TALL = Grid.from_spacing((40, 7, 6), (0.7, 1.0, 1.1))
ROUND, CYLINDER = CONE.with_(rows=13, row_pitch=1.3), CURVED.with_(rows=17, row_pitch=1.1, middle_row=7.2)
WITH: dict[str, tuple[Grid, Geometry]] = {
    "flat cone": (UPRIGHT, ROUND),
    "flying spot": (UPRIGHT, CYLINDER.with_(source_shifts=SPOTS, detector_shifts=SAGS)),
    "one voxel": (Grid.from_spacing((1, 1, 1), 4.0), ROUND),
    "turned cone on an oblique grid": (oblique(), ROUND),
    **{
        f"rows along axis {axis}": (UPRIGHT, CYLINDER.with_(frame=DeviceFrame.from_axes(*turn)))
        for axis, turn in TURNS.items()
    },
    "lifted fan": (UPRIGHT, FAN.with_(frame=DeviceFrame(), rows=14, row_pitch=0.7)),
    "parallel": (UPRIGHT, ParallelBeamGeometry(CONE.angles, 9, 1.2, rows=21, row_pitch=0.3)),
    "rows of four voxels": (TALL, FAR.with_(rows=12, row_pitch=3.4)),
    "many rows to a voxel": (UPRIGHT, CONE.with_(rows=90, row_pitch=0.11)),
    "helix along a tall volume": (TALL, CONE.with_(rows=19, row_pitch=0.9).helical(9.0)),
    "taller than the volume": (UPRIGHT, CONE.with_(rows=61, row_pitch=1.3)),
}
#: Few rows, rows that lean, rays that move most along them, rows too far apart.
WITHOUT: dict[str, tuple[Grid, Geometry]] = {
    "few rows": (UPRIGHT, CONE),
    "laminography": (UPRIGHT, TILTED.with_(rows=20)),
    "steep cone": (TALL, CONE.with_(rows=12, row_pitch=8.0, source_to_axis=12.0)),
    "rows of five voxels": (TALL, FAR.with_(rows=12, row_pitch=5.6)),
}


def rays_with(name: str, up: int = 1) -> VolumeRays:
    """Return the rays of a scan of WITH, or with its rows in the opposite order."""
    grid, scan = WITH[name]
    views = scan.views()
    return VolumeRays.through(grid, replace(views, rows=up * views.rows))


def random_pair(rays: VolumeRays, batch: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes = ((batch, *rays.size), (batch, *rays.views.shape))
    x, y = (torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)
    return x, y


def apart(got: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest value expected."""
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("axis", TURNS)
def test_the_rows_may_run_along_any_axis(axis: int) -> None:
    columns = Columns.of(rays_with(f"rows along axis {axis}"))
    assert columns is not None
    assert columns.axis == axis


@pytest.mark.parametrize("name", WITHOUT)
def test_rays_that_differ_in_more_than_height_are_walked_one_by_one(name: str) -> None:
    grid, scan = WITHOUT[name]
    assert Columns.of(VolumeRays.through(grid, scan.views())) is None


def test_rows_at_uneven_distances_are_walked_one_by_one() -> None:
    rays = rays_with("flat cone")
    up = rays.views.up.copy()
    up[2] += 1e-9
    assert Columns.of(replace(rays, views=replace(rays.views, up=up))) is None


@pytest.mark.parametrize("up", [1, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
@pytest.mark.parametrize("name", WITH)
def test_a_column_at_a_time_is_ray_after_ray(
    monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype, up: int
) -> None:
    rays = rays_with(name, up)
    x, y = random_pair(rays, 1, dtype)
    assert Columns.of(rays) is not None
    found = numba_volume.forward(rays, x), numba_volume.adjoint(rays, y)
    monkeypatch.setattr(numba_volume, "_columns", lambda _: None)
    expected = numba_volume.forward(rays, x), numba_volume.adjoint(rays, y)
    for got, wanted in zip(found, expected, strict=True):
        assert wanted.abs().max() > 0
        assert apart(got, wanted) < ROUNDING[dtype]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
@pytest.mark.parametrize("name", WITH)
def test_the_adjoint_is_the_transpose(name: str, dtype: torch.dtype, batch: int) -> None:
    rays = rays_with(name)
    x, y = (values.abs() for values in random_pair(rays, batch, dtype))
    image, back = numba_volume.forward(rays, x), numba_volume.adjoint(rays, y)
    left, right = (image.double() * y.double()).sum(), (x.double() * back.double()).sum()
    bound = 1e-6 if dtype == torch.float32 else 1e-13
    assert abs(left - right) <= bound * image.double().norm() * y.double().norm()


@pytest.mark.parametrize("name", ["helix along a tall volume", "taller than the volume", "rows along axis 0"])
def test_results_depend_neither_on_threads_nor_on_how_the_work_is_divided(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    rays = rays_with(name)
    x, y = random_pair(rays, 2, torch.float32)
    image, back = numba_volume.forward(rays, x), numba_volume.adjoint(rays, y)
    before = torch.get_num_threads()
    try:
        for threads, thickness, turned in ((2, 1, 2**22), (3, 2, 200), (1, 5, 1)):
            torch.set_num_threads(threads)
            monkeypatch.setattr(numba_columns, "_thickness", lambda _, kept=thickness: kept)
            monkeypatch.setattr(volume_columns, "TURNED", turned)
            assert torch.equal(numba_volume.forward(rays, x), image)
            assert torch.equal(numba_volume.adjoint(rays, y), back)
    finally:
        torch.set_num_threads(before)


def test_what_is_known_of_a_scan_goes_with_it() -> None:
    rays = rays_with("flat cone")
    before = len(numba_volume._KNOWN)
    numba_volume.workspace_bytes(rays, 1, torch.float32)
    assert len(numba_volume._KNOWN) == before + 1
    del rays
    assert len(numba_volume._KNOWN) == before


@njit()
def summed(sums: np.ndarray, values: np.ndarray, start: float, step: float) -> None:
    lane_interpolation.sum_between(sums, 0, values, start, step)


@njit()
def added(values: np.ndarray, along: int, start: float, step: float, given: np.ndarray) -> None:
    lane_interpolation.add_between(values, along, start, step, given, 0)


@pytest.mark.parametrize("step", [0.0, 0.37, 1.0, 2.2, STEEPEST, -0.9, -STEEPEST])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_eight_places_are_interpolated_linearly_and_back(dtype: type, step: float) -> None:
    rng = np.random.default_rng(1)
    values, given = rng.standard_normal(80).astype(dtype), rng.standard_normal(LANES).astype(dtype)
    start = 40.3
    places = start + step * np.arange(LANES)
    low = np.floor(places + 1e-12).astype(int)
    matrix = np.zeros((LANES, 80))
    matrix[np.arange(LANES), low] = 1 - (places - low)
    matrix[np.arange(LANES), low + 1] = places - low
    # Shares to 8 times half a digit, and the rounding of sums of values of a few units.
    bound = {np.float32: 8 * 2.0**-27 * 6 + 8 * 2.0**-23, np.float64: 8 * 2.0**-48 * 6 + 8 * 2.0**-52}[dtype]
    sums = np.ones(LANES, dtype=dtype)
    summed(sums, values, start, step)
    assert np.abs(sums - (1 + matrix @ values)).max() < bound
    lines = np.zeros(80 * BUFFERS, dtype=dtype)
    added(lines, 80, start, step, given)
    assert np.abs(lines.reshape(BUFFERS, 80).sum(axis=0) - matrix.T @ given).max() < LANES * bound


class TestColumns(EngineContract):
    engine = "numba"

    def make(self, dtype: torch.dtype) -> Projector:
        grid = Grid.from_spacing((3, 4, 5), (2.0, 1.0, 1.3), centre=(0.4, -0.7, 0.2))
        scan = CONE.with_(angles=(0.1, 2.2, 4.4), columns=4, rows=13, row_pitch=1.1, axis_column=1.7)
        made = scan.operator(grid, engine=self.engine)
        assert Columns.of(made.rays) is not None
        return made
