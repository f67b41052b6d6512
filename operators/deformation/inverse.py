"""The inverse of a deformation, and landmarks in both directions.

The inverse w of u solves, at each voxel or point p on its own,

    w + u(p + w) = 0                      phi_u(phi_w(p)) = p

by Newton's method with the derivative of the interpolant, steps halved until the residual falls.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from operators.base import checked_finite
from operators.checks import check_count, check_number, check_tensor
from operators.deformation.fields import compose
from operators.deformation.pull import check_field
from operators.deformation.stencil import (
    Boundary,
    Placement,
    interpolate,
    interpolate_with_slopes,
)
from operators.errors import ConvergenceWarning, type_error, value_error
from operators.grid import Grid

__all__ = ["inverse_error", "invert", "points_to_fixed", "points_to_moving", "target_registration_error"]

#: Below this |det J| a Newton step would leap; a fixed-point step is taken there.
FLAT = 1e-2


@dataclass(frozen=True)
class Search:
    """Where the equation is solved, and when the search ends."""

    grid: Grid
    tolerance: float | None
    max_iterations: int

    def __post_init__(self) -> None:
        check_count(self.max_iterations, "max_iterations")
        if self.tolerance is not None:
            check_number(self.tolerance, "tolerance", positive=True)

    @property
    def bound(self) -> float:
        """Residual in mm at which a voxel or point has converged."""
        sides = [side for side, n in zip(self.grid.spacing, self.grid.shape, strict=True) if n > 1]
        return 1e-4 * min(sides, default=1.0) if self.tolerance is None else self.tolerance


def invert(
    u: Tensor,
    grid: Grid,
    *,
    tolerance: float | None = None,
    max_iterations: int = 50,
    boundary: Boundary = "edge",
) -> Tensor:
    """Return the field w of the inverse map, phi_u o phi_w = id, on the same grid.

    A voxel has converged where |w + u(r + w)| is at most `tolerance` mm, by default a ten-thousandth of
    the shortest voxel side; where some have not, a ConvergenceWarning tells their share. Differentiable
    in `u` to first order, dw = -J^-1 du, without a graph of the search.
    """
    check_field(u, grid, "u")
    search = Search(grid, tolerance, max_iterations)
    rows = u.reshape(-1, 3, *grid.shape)
    still = rows.new_zeros(len(rows), 3, *grid.shape)
    place = Placement.of_grid(grid, grid, boundary, u.device)
    w = _found(rows, place, still, search, "invert")
    return w.reshape(u.shape)


def inverse_error(u: Tensor, w: Tensor, grid: Grid, *, boundary: Boundary = "edge") -> Tensor:
    """Return |w(r) + u(r + w(r))| in mm per voxel, (..., *grid.shape): 0 where w inverts u."""
    return cast(Tensor, torch.linalg.vector_norm(compose(u, w, grid, boundary=boundary), dim=-4))


def points_to_moving(u: Tensor, grid: Grid, points: Tensor, *, boundary: Boundary = "edge") -> Tensor:
    """Return p + u(p): where in the moving image lies what the warped image shows at `points`.

    `points` (..., N, 3) are world points in mm in the frame of the field (the fixed image); their batch
    axes and those of `u` (..., 3, *grid.shape) broadcast. Differentiable in `u` and in `points`.
    """
    rows, places, shape = _paired_points(u, grid, points)
    place, still = _standing(grid, places, u.dtype, boundary)
    moved = interpolate(rows.flatten(2), place.at(still))
    return (places + moved.mT.to(places.dtype)).reshape(shape)


def points_to_fixed(
    u: Tensor,
    grid: Grid,
    points: Tensor,
    *,
    tolerance: float | None = None,
    max_iterations: int = 50,
    boundary: Boundary = "edge",
) -> Tensor:
    """Return the q of q + u(q) = p: where the warped image shows what lies at `points` of the moving image.

    The inverse of `points_to_moving`, found per point as by `invert`, with the same warning.
    """
    rows, places, shape = _paired_points(u, grid, points)
    search = Search(grid, tolerance, max_iterations)
    w = _found(rows, *_standing(grid, places, u.dtype, boundary), search, "points_to_fixed")
    return (places + w.mT.to(places.dtype)).reshape(shape)


def target_registration_error(
    u: Tensor, grid: Grid, fixed_points: Tensor, moving_points: Tensor, *, boundary: Boundary = "edge"
) -> Tensor:
    """Return |p + u(p) - q| in mm per pair of corresponding `fixed_points` p and `moving_points` q."""
    _check_points(fixed_points, "fixed_points")
    _check_points(moving_points, "moving_points")
    if moving_points.shape != fixed_points.shape:
        found = f"{tuple(fixed_points.shape)} and {tuple(moving_points.shape)}"
        raise value_error("moving_points", "have the shape of fixed_points", found)
    moved = points_to_moving(u, grid, fixed_points, boundary=boundary)
    return cast(Tensor, torch.linalg.vector_norm(moved - moving_points, dim=-1))


def _found(field: Tensor, place: Placement, still: Tensor, search: Search, name: str) -> Tensor:
    """Return w (P, 3, *out) of w + u(p + w) = 0 for fields (P, 3, z, y, x), warning where it was not found.

    `still` (P, 3, *out) is zero and carries the derivative in the points p.
    """
    values = field.flatten(2)
    with torch.no_grad():
        w, residual = _newton(values.detach(), place, still.detach(), search)
    missed = ~(residual <= search.bound)  # a NaN is missed too
    share = float(missed.to(torch.float64).mean())
    if share > 0:
        warnings.warn(
            f"{name} left a share of {share:.3g} above its tolerance of {search.bound:.3g} mm after "
            f"{search.max_iterations} iterations, at most {float(residual.max()):.3g} mm. A field that folds "
            "has no inverse there: see folded_share. Else raise `max_iterations` or `tolerance`.",
            ConvergenceWarning,
            stacklevel=3,
        )
    # One more step, whose derivative is that of the implicit equation.
    _, step = _newton_step(values, place, w, still)
    return torch.where(missed.unsqueeze(1), w, w - step)


def _newton(values: Tensor, place: Placement, still: Tensor, search: Search) -> tuple[Tensor, Tensor]:
    """Return w (P, 3, *out) and the norm of its residual (P, *out)."""
    w = still
    error, step = _newton_step(values, place, w, still)
    residual = torch.linalg.vector_norm(error, dim=1)
    length = torch.ones_like(residual)
    for _ in range(search.max_iterations):
        if float(residual.max()) <= search.bound:
            break
        trial = w - length.unsqueeze(1) * step
        error, next_step = _newton_step(values, place, trial, still)
        size = torch.linalg.vector_norm(error, dim=1)
        better = size < residual
        taken = better.unsqueeze(1)
        w, step = torch.where(taken, trial, w), torch.where(taken, next_step, step)
        residual = torch.where(better, size, residual)
        length = torch.where(better, 1.0, length / 2)
    return w, residual


def _newton_step(values: Tensor, place: Placement, w: Tensor, still: Tensor) -> tuple[Tensor, Tensor]:
    """Return e = w + u(p + w) and J^-1 e, with J held fixed for derivatives."""
    stencil = place.at(w + still, slopes=True).like(values)
    moved, slopes = interpolate_with_slopes(values, stencil)
    error = w.flatten(2) + moved
    columns = []
    for j in range(3):
        unit = torch.zeros(3, 1, dtype=values.dtype, device=values.device)
        unit[j] = 1
        column = unit.expand_as(error)
        for axis, slope in slopes.items():
            if place.inverse[axis][j] != 0:
                column = column + place.inverse[axis][j] * slope.detach()
        columns.append(column)
    a, b, c = columns
    across = (
        torch.linalg.cross(b, c, dim=1),
        torch.linalg.cross(c, a, dim=1),
        torch.linalg.cross(a, b, dim=1),
    )
    determinant = (a * across[0]).sum(1, keepdim=True)
    flat = determinant.abs() < FLAT
    numerators = torch.stack([(normal * error).sum(1) for normal in across], dim=1)
    step = torch.where(flat, error, numerators / torch.where(flat, 1.0, determinant))
    return error.reshape(w.shape), step.reshape(w.shape)


def _standing(grid: Grid, points: Tensor, dtype: torch.dtype, boundary: Boundary) -> tuple[Placement, Tensor]:
    """Return the places of world points (P, N, 3), and a zero shift that carries their derivative."""
    still = (points - points.detach()).mT.to(dtype)
    return Placement.of_points(grid, points.detach(), boundary), still


def _paired_points(u: Tensor, grid: Grid, points: Tensor) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Return fields (P, 3, z, y, x), points (P, N, 3) row beside row, and the shape of the answer."""
    check_field(u, grid, "u")
    _check_points(points, "points")
    try:
        batch = np.broadcast_shapes(u.shape[:-4], points.shape[:-2])
    except ValueError as error:
        found = f"{tuple(points.shape)} beside {tuple(u.shape)}"
        raise value_error("points", "have batch axes that broadcast with those of u", found) from error
    shape = (*batch, *points.shape[-2:])
    places = points.expand(shape).reshape(-1, *points.shape[-2:])
    return u.expand(*batch, *u.shape[-4:]).reshape(-1, *u.shape[-4:]), places, shape


def _check_points(points: object, argument: str) -> None:
    value = check_tensor(points, argument)
    if value.is_complex():
        raise type_error(argument, "be real", value.dtype)
    if value.ndim < 2 or value.shape[-1] != 3:
        raise value_error(argument, "have shape (..., N, 3): world points in mm", tuple(value.shape))
    checked_finite(value, argument)
