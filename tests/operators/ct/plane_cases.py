"""Scans of slices, and rays made by hand, that every engine for slices is tested with."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from operators.ct import FanBeamGeometry, ParallelBeamGeometry, Projector, torch_plane
from operators.ct.geometry import RotationGeometry
from operators.ct.rays import PlaneRays, Slices
from operators.frame import DeviceFrame
from operators.grid import Grid

#: Half the gap between one and the next number.
ROUNDING = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


def skewed_grid(frame: DeviceFrame, slices: int = 3, rows: int = 14, columns: int = 11) -> Grid:
    """Return a grid turned in its plane, sheared, anisotropic, shifted, across the axis of the frame."""
    turn, shear = math.radians(25), 0.3
    in_device = np.eye(4)
    in_device[:3, 0] = (0, 0, 2.0)
    in_device[:3, 1] = 1.3 * np.array([-math.sin(turn) + shear, math.cos(turn), 0])
    in_device[:3, 2] = 0.8 * np.array([math.cos(turn), math.sin(turn), 0])
    in_device[:3, 3] = (-7.0, -9.0, 0.0)
    return Grid((slices, rows, columns), frame.to_world @ in_device)


def skewed_scan(kind: str) -> tuple[Grid, RotationGeometry]:
    """Return a scan "parallel", "flat" or "cylindrical" with a shifted axis and a row that sees nothing."""
    rotation = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
    frame = DeviceFrame.from_axes(*rotation.T, origin=(5, -3, 11))
    grid = skewed_grid(frame)
    shared = {"rows": 4, "row_pitch": 2.0, "middle_row": 0, "axis_column": 11.3, "frame": frame}
    if kind == "parallel":
        return grid, ParallelBeamGeometry(np.linspace(0.1, 3.5, 9), 25, 0.9, **shared)
    lengths = {"source_to_axis": 30.0, "source_to_detector": 45.0, "detector": kind}
    return grid, FanBeamGeometry(np.linspace(0.1, 6.5, 9), 25, 1.4, **shared, **lengths)


def plane_rays(kind: str) -> PlaneRays:
    """Return the rays of such a scan within its slices."""
    grid, geometry = skewed_scan(kind)
    slices = geometry.operator(grid, engine="torch").slices
    assert slices is not None
    return slices.rays


def edge_rays() -> PlaneRays:
    """Return rays through voxel centres, along the axes, along edges and beyond, diagonal, far away."""
    nu, nv = 9, 6
    starts = [0, 2, nv - 1, -1, nv, -1 + 2.0**-40, nv - 2.0**-40, 2.5, -0.5, nv - 0.5, 1e3, -1e9, 1e15]
    slopes = [0.0, 1.0, -1.0, 0.5, -0.25, 2.0**-30]
    start, slope = (part.ravel() for part in np.meshgrid(starts, slopes, indexing="ij"))
    start = np.concatenate([start, start + nv])
    slope = np.concatenate([slope, slope])
    along_u = np.arange(len(start)) < len(start) // 2
    rays = (along_u, start.astype(float), slope, 0.3 + np.hypot(1, slope))
    return PlaneRays((nu, nv), *(values.reshape(6, -1) for values in rays))


RAYS: dict[str, Callable[[], PlaneRays]] = {
    "parallel": lambda: plane_rays("parallel"),
    "flat": lambda: plane_rays("flat"),
    "cylindrical": lambda: plane_rays("cylindrical"),
    "edges": edge_rays,
    "one column": lambda: part_of(plane_rays("flat"), slice(None), slice(12, 13)),
    "one view": lambda: part_of(plane_rays("parallel"), slice(2, 3), slice(None)),
    "one ray": lambda: part_of(plane_rays("cylindrical"), slice(4, 5), slice(11, 12)),
}


def part_of(rays: PlaneRays, views: slice, columns: slice) -> PlaneRays:
    """Return some views and columns."""
    arrays = (rays.along_u, rays.start, rays.slope, rays.length)
    return PlaneRays(rays.size, *(values[views, columns] for values in arrays))


def positive(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 3) -> Tensor:
    """Return numbers between 1/2 and 3/2."""
    return 0.5 + torch.rand(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def applied(engine: ModuleType, rays: PlaneRays, stack: Tensor) -> Tensor:
    """Return line integrals (rows, views, columns) of slices (rows, nu, nv)."""
    out = stack.new_zeros((1, len(stack), *rays.shape))
    engine.forward(Slices(0, np.arange(len(stack)), rays), stack[None], out)
    return out[0]


def returned(engine: ModuleType, rays: PlaneRays, data: Tensor) -> Tensor:
    """Return back-projections (rows, nu, nv) of (rows, views, columns)."""
    out = data.new_zeros((1, len(data), *rays.size))
    engine.adjoint(Slices(0, np.arange(len(data)), rays), data[None], out)
    return out[0]


def expected(rays: PlaneRays, stack: Tensor) -> Tensor:
    """Return line integrals (rows, views, columns) by the reference, in double precision."""
    return torch_plane.forward(rays, stack.double().permute(1, 2, 0)).permute(2, 0, 1)


def expected_back(rays: PlaneRays, data: Tensor) -> Tensor:
    """Return back-projections (rows, nu, nv) by the reference, in double precision."""
    return torch_plane.adjoint(rays, data.double().permute(1, 2, 0)).permute(2, 0, 1)


def small(engine: str, slices: int, size: int, views: int) -> Projector:
    """Return a parallel scan of square slices."""
    grid = Grid.from_spacing((slices, size, size), 1.0)
    return ParallelBeamGeometry.around(grid, views).operator(grid, engine=engine)
