"""Arithmetic of displacement fields: affine maps, composition, exponentials, other grids.

Conventions in `operators.deformation`: u(r) in mm along world (R, A, S), the map is phi_u(r) = r + u(r).
Beyond its voxels a field holds its edge value, with `boundary` "zero" it ends at the outer faces.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from operators.checks import check_count
from operators.deformation.pull import check_field, check_still, pull
from operators.deformation.stencil import Boundary, Placement
from operators.errors import type_error, value_error
from operators.frame import DeviceFrame
from operators.grid import FloatArray, Grid

__all__ = ["affine_field", "compose", "exponentiate", "identity_field", "resample_field", "squarings_for"]


def identity_field(grid: Grid, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the field that moves nothing, (3, *grid.shape)."""
    return torch.zeros((3, *check_still(grid).shape), dtype=_real(dtype))


def affine_field(
    matrix: ArrayLike | DeviceFrame, grid: Grid, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return the field of the affine map r -> M r + t of world points in mm, given as a 4x4 matrix.

    A `DeviceFrame` stands for its rigid `to_world`.
    """
    linear, offset = _affine_parts(matrix.to_world if isinstance(matrix, DeviceFrame) else matrix)
    z, y, x = (np.arange(n, dtype=np.float64) for n in check_still(grid).shape)
    # u = (M - 1) r + t and r = A i + o: one small matrix from index to displacement.
    slope = (linear - np.eye(3)) @ grid.affine[:3, :3]
    start = (linear - np.eye(3)) @ grid.affine[:3, 3] + offset
    u = (
        start[:, None, None, None]
        + slope[:, 0, None, None, None] * z[:, None, None]
        + slope[:, 1, None, None, None] * y[:, None]
        + slope[:, 2, None, None, None] * x
    )
    return torch.from_numpy(u).to(_real(dtype))


def compose(
    u: Tensor, v: Tensor, grid: Grid, *, u_grid: Grid | None = None, boundary: Boundary = "edge"
) -> Tensor:
    """Return u o v, the field of phi_u o phi_v: (u o v)(r) = v(r) + u(r + v(r)).

    Warping by it is warping by u first, then warping the result by v: W_(u o v) = W_v W_u. `v` and the
    result lie on `grid`, `u` on `u_grid`, by default the same; batch axes broadcast.
    """
    source = check_still(grid if u_grid is None else u_grid, "u_grid")
    check_field(u, source, "u")
    check_field(v, grid, "v")
    if u.dtype != v.dtype:
        raise type_error("v", f"have the dtype of u, {u.dtype}", v.dtype)
    return v + pull(u, v.unsqueeze(-5), Placement.of_grid(source, grid, boundary, u.device))


def resample_field(u: Tensor, grid: Grid, target: Grid, *, boundary: Boundary = "edge") -> Tensor:
    """Return `u` at the voxels of `target`: the same displacements, since they speak the world's axes."""
    check_field(u, grid, "u")
    still = torch.zeros((3, *check_still(target, "target").shape), dtype=u.dtype, device=u.device)
    return pull(u, still, Placement.of_grid(grid, target, boundary, u.device))


def squarings_for(v: Tensor, grid: Grid) -> int:
    """Return the number of squarings with which `exponentiate` keeps every step from folding.

    Linear interpolation of steps w with components up to b voxels has slopes up to 2 b per direction:
    in n directions |grad w| <= 2 n b. The smallest K with b = max|v| / 2^K <= 1 / (4 n) makes that 1/2,
    where 1 would do for w, and 1/2 for the midpoint step w(r + w(r)/2) too: (1 + 1/4) / 2 < 1. `v` counts
    with its largest entry over all batch axes.
    """
    check_field(v, grid, "v")
    inverse = torch.as_tensor(np.linalg.inv(grid.affine[:3, :3]), dtype=v.dtype, device=v.device)
    with torch.no_grad():
        largest = float(torch.einsum("aj,...jzyx->...azyx", inverse, v).abs().max())
    n = max(1, sum(length > 1 for length in grid.shape))
    return max(0, math.ceil(math.log2(4 * n * largest))) if largest > 0 else 0


def exponentiate(
    v: Tensor, grid: Grid, *, squarings: int | None = None, boundary: Boundary = "edge"
) -> Tensor:
    """Return the field of exp(v), the flow of the stationary velocity `v` for unit time, in mm.

    Scaling and squaring: with w = v / 2^K, u_0(r) = w(r + w(r)/2), which is exp(w) to second order,
    and K times u <- u o u. K = `squarings`, by default that of `squarings_for`. exp(-v) is the inverse.
    """
    check_field(v, grid, "v")
    count = squarings_for(v, grid) if squarings is None else check_count(squarings, "squarings", minimum=0)
    return flow(v, Placement.of_grid(grid, grid, boundary, v.device), count)


def flow(v: Tensor, place: Placement, squarings: int) -> Tensor:
    """Return exp(v) for the `place` of a grid in itself and checked arguments."""
    step = v / 2**squarings
    u = pull(step, (step / 2).unsqueeze(-5), place)
    for _ in range(squarings):
        u = u + pull(u, u.unsqueeze(-5), place)
    return u


def _affine_parts(matrix: ArrayLike) -> tuple[FloatArray, FloatArray]:
    try:
        values = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise type_error("matrix", "be a 4x4 matrix of numbers", repr(matrix)) from error
    if values.shape != (4, 4) or not np.isfinite(values).all():
        raise value_error("matrix", "be a finite 4x4 matrix", values.tolist())
    # What products and exponentials of matrices leave there.
    if np.abs(values[3] - [0, 0, 0, 1]).max() > 1e-9:
        raise value_error("matrix", "have the last row (0, 0, 0, 1)", values[3].tolist())
    return values[:3, :3], values[:3, 3]


def _real(dtype: object) -> torch.dtype:
    if dtype not in (torch.float32, torch.float64):
        raise type_error("dtype", "be torch.float32 or torch.float64", repr(dtype))
    return dtype
