"""Warping as operators: linear in the image for a given field, nonlinear in the field for a given image.

    (W_u x)(r) = x(r + u(r))

with x interpolated linearly between voxel centres; see `operators.deformation` for the conventions.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from operators.base import Operator
from operators.checks import check_finite
from operators.constant import Constant
from operators.deformation.jacobian import FoldingWarning, folding
from operators.deformation.pull import check_still, joined, planar, pull
from operators.deformation.rows import read_rows
from operators.deformation.stencil import Boundary, Placement, interpolate, spread
from operators.errors import type_error, value_error
from operators.grid import Grid
from operators.linear import LinearOperator
from operators.space import Space

__all__ = ["Warp", "WarpField"]


class Warp(LinearOperator):
    """Image on the grid of `domain` -> its values at r + u(r) for the voxels r of `grid`.

    `field` (3, *grid.shape) is u in mm along world (R, A, S); `grid`, where the values lie, is by default
    the image's own. All axes of the domain in front of (z, y, x), frames and components, move alike;
    the vectors of a vector field are carried along, not turned. Outside the outer faces of the image
    there is 0, with `boundary` "edge" the value at the edge. The adjoint is exact and sums in a fixed
    order, on CUDA devices too. A field that folds is told by a FoldingWarning with its share; messages
    call it `argument`.
    """

    def __init__(
        self,
        domain: Space,
        field: Tensor,
        *,
        grid: Grid | None = None,
        boundary: Boundary = "zero",
        argument: str = "field",
    ) -> None:
        moving = Space.require(domain, "domain").grid
        if moving is None:
            raise value_error("domain", "lie on a Grid, for displacements in mm", domain)
        if domain.classes is not None:
            raise type_error("domain", "hold numbers", domain.kind, "Label maps: warp_labels(...).")
        target = check_still(moving.with_time(None) if grid is None else grid)
        lead = domain.shape[:-3]
        there = target.with_time(moving.time)
        super().__init__(domain, Space((*lead, *target.shape), domain.is_complex, there, domain.is_vector))
        remedy = "To differentiate in the field: WarpField or warp(...). Here: field.detach()."
        self.field = Constant(_one_field(field, target, argument), argument, remedy)
        if message := folding(field, target, argument):
            warnings.warn(message, FoldingWarning, stacklevel=2)
        self._stencil = Placement.of_grid(moving, target, boundary, field.device).at(field[None])
        if self._stencil.inside is not None and not bool(self._stencil.inside.any()):
            warnings.warn(
                f"`{argument}` leads out of the image from every voxel: all values are 0. Displacements are "
                "in mm, and lead from the grid of the values to the image.",
                UserWarning,
                stacklevel=2,
            )

    def _apply(self, x: Tensor) -> Tensor:
        stencil = self._stencil.like(x.real if x.is_complex() else x)
        return self._rowwise(x, self.codomain, lambda rows: interpolate(rows, stencil, read_rows))

    def _apply_adjoint(self, y: Tensor) -> Tensor:
        stencil = self._stencil.like(y.real if y.is_complex() else y)
        count = math.prod(self.domain.shape[-3:])
        return self._rowwise(y, self.domain, lambda rows: spread(rows, stencil, count))

    def _rowwise(self, values: Tensor, to: Space, move: Callable[[Tensor], Tensor]) -> Tensor:
        parts = planar(values)
        rows = parts.reshape(1, -1, math.prod(parts.shape[-3:]))
        # Volumes one by one: temporaries stay small enough for the allocator to use them again.
        some = max(1, 2**21 // rows.shape[-1])
        moved = torch.cat([move(block) for block in torch.split(rows, some, dim=1)], dim=1)
        return joined(moved.reshape(*parts.shape[:-3], *to.shape[-3:]), values.is_complex())


class WarpField(Operator):
    """Displacements u (3, *grid.shape) in mm -> x(r + u(r)) for one given image x: what registration fits.

    `image` (*components, *moving_grid.shape), real or complex, lies on `moving_grid`. The derivative is
    that of the interpolant, (dx/dr)(r + u(r)) . v, which jumps where r + u(r) passes a voxel centre
    (there it is that of the upper side, at the last voxel of the lower) and is 0 where an edge value is held.
    It does not see that with "zero" the image ends at its outer faces, where values jump. Neither this
    nor `warp` looks for folds, which a fit may pass through: see `check_diffeomorphic`.
    """

    def __init__(
        self,
        image: Tensor,
        moving_grid: Grid,
        *,
        grid: Grid | None = None,
        boundary: Boundary = "zero",
    ) -> None:
        source = check_still(moving_grid, "moving_grid")
        target = check_still(source if grid is None else grid)
        lead = tuple(image.shape[:-3]) if isinstance(image, Tensor) else ()
        is_complex = isinstance(image, Tensor) and image.is_complex()
        Space((*lead, *source.shape), is_complex, source).check(image, "image")
        check_finite(image, "image")
        super().__init__(Space.vectors(target), Space((*lead, *target.shape), is_complex, target))
        self.image = Constant(image, "image")
        self._place = Placement.of_grid(source, target, boundary, image.device)

    def _apply(self, x: Tensor) -> Tensor:
        field = x.reshape(x.shape[0], *[1] * (self.codomain.ndim - 3), *self.domain.shape)
        return pull(self.image.like(x), field, self._place)


def _one_field(field: Tensor, grid: Grid, argument: str) -> Tensor:
    space = Space.vectors(grid)
    space.check(field, argument)
    if tuple(field.shape) != space.shape:
        raise value_error(
            argument,
            f"have shape {space.shape}: one field without batch axes",
            tuple(field.shape),
            "Several at once: the function warp(image, field, grid), or one operator each.",
        )
    check_finite(field, argument)
    return field
