"""The defining sum of MRI over world positions, and a grid that lies askew in the scanner."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from operators.frame import DeviceFrame
from operators.grid import Grid

ROTATION = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
#: A scanner whose axes are not the world's, and whose isocentre is not its origin.
FRAME = DeviceFrame.from_axes(*np.eye(3)[[1, 2, 0]], origin=(1.0, 2.0, 3.0))


def oblique(shape: tuple[int, int, int]) -> Grid:
    """Return an oblique grid of anisotropic voxels off the isocentre."""
    affine = np.eye(4)
    affine[:3, :3] = ROTATION[:, ::-1] * np.array([3.0, 1.5, 2.0])
    affine[:3, 3] = (11.0, -7.0, 23.0)
    return Grid(shape, affine)


def positions(grid: Grid, frame: DeviceFrame) -> np.ndarray:
    """Return the device positions (voxels, 3) of all voxels, x, y, z."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1)
    return frame.points_to_device(grid.index_to_world(index)).reshape(-1, 3)


def defining_sum(
    k: np.ndarray,
    grid: Grid,
    frame: DeviceFrame,
    zero_phase: tuple[float, float, float],
    x: Tensor,
    *,
    voxels: int | None = None,
    turns: np.ndarray | float = 0.0,
) -> Tensor:
    """Return y(k) for k (..., 2 or 3) in 1/mm and one image; `turns` (..., voxels) is added to the phase."""
    full = np.zeros((*k.shape[:-1], 3))
    full[..., : k.shape[-1]] = k
    phase = full.reshape(-1, 3) @ (positions(grid, frame) - np.array(zero_phase)).T + turns
    count = math.prod(grid.shape) if voxels is None else voxels
    values = np.exp(-2j * math.pi * phase) @ x.numpy().ravel() / math.sqrt(count)
    return torch.from_numpy(values).reshape(k.shape[:-1])


def inside_nyquist(grid: Grid, frame: DeviceFrame, *shape: int, seed: int = 0) -> np.ndarray:
    """Return random k (*shape, 3) in 1/mm inside the Nyquist box of `grid`, its corners among them."""
    cycles = np.random.default_rng(seed).uniform(-0.5, 0.5, (*shape, 3))
    cycles.reshape(-1, 3)[:2] = (0.5, -0.5, 0.5), (-0.5, -0.5, -0.5)
    return cycles @ np.linalg.inv(grid.affine[:3, :3]) @ frame.to_world[:3, :3]


def relative(got: Tensor, expected: Tensor) -> float:
    """Return |got - expected| / |expected|."""
    return float((got - expected).norm() / expected.norm())
