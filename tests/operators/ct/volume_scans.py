"""Small scans of every kind that sees a volume, on grids of every kind, by name."""

from __future__ import annotations

import math

import numpy as np

from operators.ct import ConeBeamGeometry, FanBeamGeometry, Geometry, OrbitGeometry, ParallelBeamGeometry
from operators.ct.rays import VolumeRays
from operators.frame import DeviceFrame
from operators.grid import Grid

ROTATION = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
TURNED = DeviceFrame.from_axes(*ROTATION.T)
UPRIGHT = Grid.from_spacing((5, 6, 7), (2.0, 1.0, 1.3), centre=(0.4, -0.7, 0.2))
ANGLES = tuple(np.linspace(0.1, 5.9, 5).tolist())


def oblique(shape: tuple[int, int, int] = (5, 6, 4)) -> Grid:
    """Return a left-handed grid of three spacings, turned against everything, its centre near the origin."""
    turn = np.array([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0], [0.8, 0.0, -0.6]])
    axes = turn @ ROTATION @ np.diag([1.7, 0.8, 1.1])
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = np.array([0.3, -0.5, 0.2]) - axes @ ((np.array(shape) - 1) / 2)
    assert np.linalg.det(axes) < 0
    return Grid(shape, affine)


CONE = ConeBeamGeometry(
    angles=ANGLES,
    columns=9,
    column_pitch=1.9,
    rows=7,
    row_pitch=2.3,
    axis_column=4.3,
    source_to_axis=21.0,
    source_to_detector=34.0,
)
SPOTS = tuple((0.7 * (-1) ** k, 0.3, 0.4 * (k % 3 - 1)) for k in range(5))
SAGS = tuple((0.2, -0.3 * k, 0.1 * k) for k in range(5))
CURVED = CONE.with_(detector="cylindrical")
FAN = FanBeamGeometry(
    angles=ANGLES,
    columns=10,
    column_pitch=1.6,
    rows=6,
    row_pitch=1.2,
    source_to_axis=23.0,
    source_to_detector=39.0,
    frame=TURNED,
)
TILTED = ParallelBeamGeometry(ANGLES, 9, 1.2, rows=8, row_pitch=1.1, tilt=math.radians(35))


def path(parallel: bool) -> OrbitGeometry:
    """Return views from everywhere: their rays walk along every axis."""
    towards = np.array([[1, 0.3, 0.2], [0.1, 1, -0.4], [-0.2, 0.3, 1], [0.7, 0.7, 0.69], [-1, 0.9, 0.4]])
    aside = np.cross(towards, (0.3, -0.5, 0.8))
    upward = np.cross(aside, towards)
    return OrbitGeometry(
        sources=towards if parallel else -17 * towards,
        centres=9 * towards + 0.3,
        column_steps=1.4 * aside / np.linalg.norm(aside, axis=1, keepdims=True),
        row_steps=1.1 * upward / np.linalg.norm(upward, axis=1, keepdims=True),
        columns=8,
        rows=9,
        parallel=parallel,
    )


SCANS: dict[str, tuple[Grid, Geometry]] = {
    "flat cone": (UPRIGHT, CONE),
    "cylindrical cone": (UPRIGHT, CURVED),
    "helix": (UPRIGHT, CURVED.helical(7.0)),
    "flying spot": (UPRIGHT, CURVED.with_(source_shifts=SPOTS, detector_shifts=SAGS)),
    "flat cone with shifts": (oblique(), CONE.with_(source_shifts=SPOTS, detector_shifts=SAGS)),
    "cone on an oblique grid": (oblique(), CONE),
    "wide cone": (UPRIGHT, CONE.with_(row_pitch=9.0, source_to_axis=12.0)),
    "lifted fan on an oblique grid": (oblique(), FAN),
    "lifted cylindrical fan": (oblique(), FAN.with_(detector="cylindrical")),
    "oblique parallel": (oblique(), ParallelBeamGeometry(ANGLES, 9, 1.2, rows=8, row_pitch=1.1)),
    "laminography": (UPRIGHT, TILTED),
    "diverging path": (oblique(), path(parallel=False)),
    "parallel path": (UPRIGHT, path(parallel=True)),
    "one row": (UPRIGHT, CONE.with_(rows=1)),
    "one column": (UPRIGHT, CONE.with_(columns=1, axis_column=0.2)),
    "one view of one pixel": (oblique(), CONE.with_(angles=(0.4,), rows=1, columns=1, axis_column=0.1)),
    "one voxel": (Grid.from_spacing((1, 1, 1), 4.0), CONE),
    "one slice": (oblique((1, 6, 7)), CONE),
    "one column of voxels": (oblique((7, 1, 1)), TILTED),
}


def rays_of(name: str) -> VolumeRays:
    """Return the rays of a scan of SCANS."""
    grid, geometry = SCANS[name]
    return VolumeRays.through(grid, geometry.views())
