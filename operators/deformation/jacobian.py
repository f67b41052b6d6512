"""Derivatives of a deformation: Jacobian, its determinant, and where the map folds.

    J_ij = delta_ij + du_i / dr_j          rows and columns in world order (R, A, S)

with du/dr = (du/di) A^-1 from differences along the array axes, A the axes of the grid: oblique,
anisotropic and mirrored grids give the same J. Differences are central, one-sided at the outer voxels;
along an axis of one voxel nothing changes, so that a single slice has the determinant of its plane.
"""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import torch
from torch import Tensor

from operators.checks import check_number
from operators.deformation.pull import check_field
from operators.errors import describe
from operators.grid import Grid

__all__ = [
    "FoldingError",
    "FoldingWarning",
    "check_diffeomorphic",
    "folded_share",
    "jacobian",
    "jacobian_determinant",
]


class FoldingError(ValueError):
    """A deformation folds: somewhere its Jacobian determinant is not positive."""


class FoldingWarning(UserWarning):
    """A deformation folds: somewhere its Jacobian determinant is not positive."""


def jacobian(u: Tensor, grid: Grid) -> Tensor:
    """Return the Jacobian of r -> r + u(r) per voxel: (..., 3, 3, *grid.shape), without unit."""
    check_field(u, grid, "u")
    steps = torch.stack([_central(u, axis - 3) for axis in range(3)], dim=-4)
    inverse = torch.as_tensor(np.linalg.inv(grid.affine[:3, :3]), dtype=u.dtype).to(u.device)
    slopes = torch.einsum("...iazyx,aj->...ijzyx", steps, inverse)
    return slopes + torch.eye(3, dtype=u.dtype, device=u.device)[..., None, None, None]


def jacobian_determinant(u: Tensor, grid: Grid) -> Tensor:
    """Return det J per voxel, (..., *grid.shape): the local change of volume of r -> r + u(r)."""
    check_field(u, grid, "u")
    return _determinant([_central(u, axis - 3) for axis in range(3)], grid)


def folded_share(u: Tensor, grid: Grid, *, strict: bool = False) -> Tensor:
    """Return the share of voxels where det J <= 0, one number per batch entry.

    Central differences do not see a field that alternates from voxel to voxel. With `strict` a voxel
    counts as folded where any of the eight determinants of one-sided differences is <= 0: these are the
    Jacobians of the linear interpolant in the cells around it.
    """
    check_field(u, grid, "u")
    if not strict:
        return _share(jacobian_determinant(u, grid) <= 0)
    folds = torch.zeros((*u.shape[:-4], *grid.shape), dtype=torch.bool, device=u.device)
    sides = [(False, True) if n > 1 else (False,) for n in grid.shape]
    for upper in itertools.product(*sides):
        steps = [_one_sided(u, axis - 3, side) for axis, side in enumerate(upper)]
        folds |= _determinant(steps, grid) <= 0
    return _share(folds)


def check_diffeomorphic(
    u: Tensor, grid: Grid, *, limit: float = 0.0, strict: bool = False, error: bool = True
) -> Tensor:
    """Return `u` if no entry of the batch folds at more than a share `limit` of its voxels.

    Else raise a FoldingError, or with `error` off warn with a FoldingWarning; both say the share.
    `strict` as in `folded_share`.
    """
    message = folding(u, grid, "u", limit=limit, strict=strict)
    if message and error:
        raise FoldingError(message)
    if message:
        warnings.warn(message, FoldingWarning, stacklevel=2)
    return u


def folding(u: Tensor, grid: Grid, argument: str, *, limit: float = 0.0, strict: bool = False) -> str:
    """Return what is wrong with a field that folds at more than a share `limit`, else an empty text."""
    allowed = check_number(limit, "limit", non_negative=True)
    share = float(folded_share(u.detach(), grid, strict=strict).max())
    if share <= allowed:
        return ""
    where = "everywhere" if allowed == 0 else f"but for a share of {allowed:g} of the voxels"
    return describe(
        argument,
        f"have a positive Jacobian determinant {where}",
        f"a field that folds at a share of {share:.3g}",
        "Smooth the field, make it smaller, or use the exponential of a velocity field.",
    )


def _determinant(steps: list[Tensor], grid: Grid) -> Tensor:
    """Return det J = det(A + du/di) / det A, which needs no quotients per mm."""
    columns = []
    for axis, step in enumerate(steps):
        own = torch.tensor(grid.affine[:3, axis], dtype=step.dtype, device=step.device)
        columns.append((step + own[:, None, None, None]).unbind(-4))
    (a, d, g), (b, e, h), (c, f, i) = columns
    volume = float(np.linalg.det(grid.affine[:3, :3]))
    return (a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)) / volume


def _central(u: Tensor, axis: int) -> Tensor:
    n = u.shape[axis]
    if n == 1:
        return torch.zeros_like(u)
    first = u.narrow(axis, 1, 1) - u.narrow(axis, 0, 1)
    last = u.narrow(axis, n - 1, 1) - u.narrow(axis, n - 2, 1)
    middle = (u.narrow(axis, 2, n - 2) - u.narrow(axis, 0, n - 2)) / 2
    return torch.cat([first, middle, last], dim=axis)


def _one_sided(u: Tensor, axis: int, upper: bool) -> Tensor:
    n = u.shape[axis]
    if n == 1:
        return torch.zeros_like(u)
    step = u.diff(dim=axis)
    end = step.narrow(axis, n - 2 if upper else 0, 1)
    return torch.cat([step, end] if upper else [end, step], dim=axis)


def _share(folds: Tensor) -> Tensor:
    return folds.to(torch.float64).mean(dim=(-3, -2, -1))
