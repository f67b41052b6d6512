"""Back-projection: both engines against the places where the views themselves say that voxels are seen."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

from operators.ct import ConeBeamGeometry, CoverageWarning, FanBeamGeometry, ParallelBeamGeometry
from operators.ct.back_projection import back_project
from operators.ct.geometry import Geometry
from operators.ct.views import Float, Views
from operators.frame import DeviceFrame
from operators.grid import Grid

ROTATION = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
SIZES = {"columns": 12, "column_pitch": 1.5, "rows": 5, "row_pitch": 1.7, "axis_column": 4.7}
CONE = {**SIZES, "source_to_axis": 40.0, "source_to_detector": 60.0, "column_pitch": 2.5, "row_pitch": 2.6}
ANGLES = tuple(np.linspace(0.1, 5.5, 7))
FRAME = DeviceFrame.from_axes(*ROTATION.T, origin=(5, -3, 11))

SCANS: dict[str, Geometry] = {
    "parallel": ParallelBeamGeometry(angles=ANGLES, frame=FRAME, **SIZES),
    "tilted": ParallelBeamGeometry(angles=ANGLES, frame=FRAME, tilt=0.3, **SIZES),
    "fan": FanBeamGeometry(angles=ANGLES, frame=FRAME, **CONE),
    "cylindrical fan": FanBeamGeometry(angles=ANGLES, frame=FRAME, detector="cylindrical", **CONE),
    "cone": ConeBeamGeometry(angles=ANGLES, frame=FRAME, **CONE),
    "cylindrical cone": ConeBeamGeometry(angles=ANGLES, frame=FRAME, detector="cylindrical", **CONE),
    "shifted cone": ConeBeamGeometry(
        angles=ANGLES,
        frame=FRAME,
        detector_shifts=tuple((0.3 * k, 0.1 * k, -0.2 * k) for k in range(7)),
        source_shifts=tuple((-0.2 * k, 0.3, 0.1 * k) for k in range(7)),
        **CONE,
    ),
    "helix": ConeBeamGeometry(angles=ANGLES, frame=FRAME, **CONE).helical(4.0),
}


def oblique() -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = ROTATION.T @ np.diag([1.9, 0.8, 1.3])
    affine[:3, 3] = FRAME.to_world[:3, 3] - affine[:3, :3] @ [1, 3, 3.5]
    return Grid((3, 7, 8), affine)


def aligned() -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = FRAME.to_world[:3, :3] @ np.array([[0, 0, 1.3], [0, 0.8, 0], [1.9, 0, 0]])
    affine[:3, 3] = FRAME.to_world[:3, 3] - affine[:3, :3] @ [1, 3, 3.5]
    return Grid((3, 7, 8), affine)


def expected(grid: Grid, views: Views, data: Float) -> Float:
    """Return the sum over views, one voxel at a time, from `Views.seen_at`."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1)
    points = grid.index_to_world(index.reshape(-1, 3))
    columns, rows = views.seen_at(points)
    out = np.zeros(len(points))
    for view in range(len(columns)):
        apart = points - views.through[view]
        ahead, aside = apart @ views.outwards[view], apart @ views.columns[view]
        far = ahead if not views.sag.any() else np.hypot(ahead, aside)
        for k, (c, r) in enumerate(zip(columns[view], rows[view], strict=True)):
            if not (-0.5 <= c <= data.shape[2] - 0.5 and -0.5 <= r <= data.shape[1] - 0.5):
                continue
            c, r = np.clip(c, 0, data.shape[2] - 1), np.clip(r, 0, data.shape[1] - 1)
            i, j = min(int(c), data.shape[2] - 2), min(int(r), data.shape[1] - 2)
            corner = data[view, j : j + 2, i : i + 2]
            value = np.array([1 - r + j, r - j]) @ corner @ np.array([1 - c + i, c - i])
            out[k] += value if views.parallel else value / far[k] ** 2
    return out.reshape(grid.shape)


@pytest.mark.parametrize("engine", ["numba", "torch"])
@pytest.mark.parametrize("grid", [oblique(), aligned()], ids=["oblique", "aligned"])
@pytest.mark.parametrize("name", SCANS)
def test_every_voxel_takes_what_its_rays_measured(name: str, grid: Grid, engine: str) -> None:
    if engine == "numba":
        pytest.importorskip("numba")
    views = SCANS[name].views()
    data = torch.from_numpy(np.random.Generator(np.random.Philox(1)).normal(size=views.shape))
    wanted = expected(grid, views, data.numpy())
    assert np.count_nonzero(wanted) > wanted.size / 2
    found = back_project(grid, views, data, engine=engine)
    assert np.abs(found.numpy() - wanted).max() < 1e-11 * np.abs(wanted).max()
    # Places in single precision: a column in 1e5, values that differ by a few units between neighbours.
    single = back_project(grid, views, data.float(), engine=engine).double().numpy()
    assert np.abs(single - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_one_row_and_one_column_are_enough() -> None:
    grid = Grid.plane((1, 1), 1.0)
    geometry = ParallelBeamGeometry(angles=(0.0, 1.0), columns=1, column_pitch=1.0)
    for engine in ("numba", "torch"):
        if engine == "numba":
            pytest.importorskip("numba")
        found = back_project(grid, geometry.views(), torch.tensor([[[2.0]], [[3.0]]]), engine=engine)
        assert found.flatten().tolist() == [5.0]


def test_mistakes_are_named() -> None:
    grid, views = Grid.plane((8, 8), 1.0), SCANS["parallel"].views()
    with pytest.raises(ValueError, match=r"`data` must be real, of shape \(7, 5, 12\)"):
        back_project(grid, views, torch.zeros(7, 5, 11))
    with pytest.raises(ValueError, match="`engine` must be 'auto', 'numba' or 'torch'"):
        back_project(grid, views, torch.zeros(views.shape), engine="astra")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CoverageWarning)
        shifted = ConeBeamGeometry(
            angles=ANGLES, detector="cylindrical", source_shifts=((0.0, 1.0, 0.0),) * 7, **CONE
        )
    with pytest.raises(ValueError, match="have the source on the axis of its cylindrical detector"):
        back_project(grid, shifted.views(), torch.zeros(7, 5, 12))
    assert math.isinf(views.radius)
