"""Denoisers that look at one image at a time: every component and frame of a batch, by itself."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from operators.errors import value_error
from operators.grid import Grid
from operators.space import Space
from workbench.priors.flat import require_field

__all__ = ["GRID_AXES", "by_field", "long_axes", "require_images"]

#: Array axes (z, y, x) of an image, counted from the end.
GRID_AXES = (-3, -2, -1)


def require_images(space: Space) -> Grid:
    """Return the grid of one frame of `space`, if its images have neighbours to compare."""
    grid = require_field(space).grid
    if grid is None:
        raise value_error("space", "lie on a Grid, for voxel sizes in mm", space)
    if not long_axes(grid):
        raise value_error("space", "have an axis longer than one voxel", space)
    return grid.with_time(None)


def long_axes(grid: Grid) -> tuple[int, ...]:
    """Return the axes longer than one voxel, counted from the end."""
    return tuple(axis for axis in GRID_AXES if grid.shape[axis] > 1)


def by_field(function: Callable[[Tensor, Tensor], Tensor], z: Tensor, sigma: Tensor) -> Tensor:
    """Return `function` of images (n, z, y, x) and levels (n, 1, 1, 1), in the shape of `z` (batch, ...)."""
    images = z.reshape(-1, *z.shape[-3:])
    levels = sigma.expand(*z.shape[:-3], 1, 1, 1).reshape(-1, 1, 1, 1)
    return function(images, levels).reshape(z.shape)
