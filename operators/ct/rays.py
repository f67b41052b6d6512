"""Rays in the index coordinates of a grid: what every CT engine is given, and all it needs.

Joseph's method walks a ray one voxel at a time along the axis on which it moves most, counted in voxels:

    position = start + slope i    on the other axes, at step i,

interpolates linearly there and multiplies by the length of a step. Beyond the outermost voxels the image
falls to zero over one voxel. It holds for any affine: rotated, anisotropic, sheared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from operators.ct.views import ROUNDING, Float, Views
from operators.grid import Grid

__all__ = ["PlaneRays", "Slices", "VolumeRays"]

#: How far a detector row may lie beside its slice, in slices.
BESIDE = 1e-3
#: Rays whose places are computed together: some 200 bytes each.
RAYS = 2**16


@dataclass(frozen=True, eq=False)
class VolumeRays:
    """All rays through a volume of `size` voxels; `views` are in index coordinates, `metric` theirs in mm^2.

    A direction d is sqrt(d . metric d) mm long, and a step along axis a that over |d_a|.
    """

    size: tuple[int, int, int]
    views: Views
    metric: Float

    @classmethod
    def through(cls, grid: Grid, views: Views) -> Self:
        """Return the rays of `views`, in world coordinates, through `grid`."""
        axes = grid.affine[:3, :3]
        inverse: Float = np.linalg.inv(grid.affine).astype(np.float64)
        return cls(grid.shape, views.mapped(inverse), axes.T @ axes)


@dataclass(frozen=True, eq=False)
class PlaneRays:
    """Rays of all views and columns through a slice of `size` = (nu, nv); arrays are (views, columns).

    `along_u`: whether a ray walks along u, its position being that on v; else the other way round.
    """

    size: tuple[int, int]
    along_u: NDArray[np.bool_]
    start: Float
    slope: Float
    length: Float

    @property
    def shape(self) -> tuple[int, int]:
        """Number of views and of detector columns."""
        return self.start.shape[0], self.start.shape[1]


@dataclass(frozen=True, eq=False)
class Slices:
    """A scan whose rows each see one slice: array axis, the slice that each row sees (-1: none), the rays."""

    axis: int
    of_row: NDArray[np.intp]
    rays: PlaneRays

    @classmethod
    def of(cls, rays: VolumeRays) -> Slices | str:
        """Return the slices, or why the rows see none of their own."""
        views, size = rays.views, rays.size
        axis = int(np.argmax(np.abs(views.rows).sum(axis=0)))
        u, v = (other for other in range(3) if other != axis)
        rise = np.abs(views.across).max() * np.abs(views.columns[:, axis]).max()
        rise += np.abs(views.sag).max() * np.abs(views.outwards[:, axis]).max()
        if views.parallel:
            forward = views.through / np.linalg.norm(views.through, axis=1, keepdims=True)
            tilt = np.abs(forward[:, axis]).max()
        else:
            ahead = views.centre - views.through
            rise += np.abs(ahead[:, axis]).max()
            rise += 0.0 if views.lifted else np.abs(views.up).max() * np.abs(views.rows[:, axis]).max()
            tilt = rise / np.linalg.norm(ahead, axis=1).min()
        aside = np.abs(views.rows[:, [u, v]]).max() * np.abs(views.up).max()
        if tilt > ROUNDING or rise > BESIDE or aside > BESIDE:
            return "its rays are not parallel to slices of the grid"
        at = views.centre[:, axis, None] + views.up * views.rows[:, axis, None]
        if np.ptp(at, axis=0).max() > BESIDE:
            return "its rows rise from view to view"
        near = np.round(at[0])
        inside = (at[0] > -1) & (at[0] < size[axis])
        if np.abs(at[0] - near)[inside].max(initial=0.0) > BESIDE:
            return "its rows lie between slices of the grid"
        seen = (near >= 0) & (near < size[axis])
        of_row = np.where(seen, near, -1).astype(np.intp)
        return cls(axis, of_row, _in_plane(rays, u, v, int(np.argmax(seen))))


def _in_plane(rays: VolumeRays, u: int, v: int, row: int) -> PlaneRays:
    """Return the rays of a row within its slice, made some views at a time: they grow out of more."""
    views, _, columns = rays.views.shape
    along_u = np.empty((views, columns), dtype=np.bool_)
    start, slope, length = (np.empty((views, columns)) for _ in range(3))
    step = max(1, RAYS // columns)
    for begin in range(0, views, step):
        part = slice(begin, begin + step)
        along_u[part], start[part], slope[part], length[part] = _part_in_plane(
            rays.views.part(part), rays.metric, u, v, row
        )
    return PlaneRays((rays.size[u], rays.size[v]), along_u, start, slope, length)


def _part_in_plane(
    views: Views, metric: Float, u: int, v: int, row: int
) -> tuple[NDArray[np.bool_], Float, Float, Float]:
    metric = metric[np.ix_([u, v], [u, v])]
    along = views.across[:, None] * views.columns[:, None] + views.sag[:, None] * views.outwards[:, None]
    lift = views.up[row] * views.rows[:, None]
    point = views.centre[:, None] + along + lift
    if views.parallel:
        direction = np.broadcast_to(views.through[:, None], point.shape)
    else:
        direction = point - views.through[:, None] - (lift if views.lifted else 0.0)
    (pu, pv), (du, dv) = point[..., [u, v]].transpose(2, 0, 1), direction[..., [u, v]].transpose(2, 0, 1)
    along_u = np.abs(du) >= np.abs(dv)
    walked, other = np.where(along_u, du, dv), np.where(along_u, dv, du)
    slope = other / walked
    flat = np.stack([du, dv], axis=-1)
    length = np.sqrt(np.einsum("...i,ij,...j->...", flat, metric, flat)) / np.abs(walked)
    start = np.where(along_u, pv, pu) - slope * np.where(along_u, pu, pv)
    return along_u, start, slope, length
