"""Rays of volumes a detector column at a time, where the detector's rows run along an axis r of the grid.

The rays of a column lie in one plane through that axis. On each plane of voxels that they cross they have the
same place on the other axis, and are evenly spaced along r: at step i, in row v,

    place(i) = start + slope i,    height(i, v) = (a + b i) + (c + d i) v,    length(v)^2 = e + f v + g v^2.

A flat or cylindrical detector, a circle or a helix, shifts per view: all have such columns on an upright
grid. Rows that lean, and rays that move most along r, have none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operators.ct.lane_interpolation import LANES, STEEPEST
from operators.ct.plane_kernels import LONGEST, Walks
from operators.ct.rays import PlaneRays, VolumeRays

__all__ = ["PER_COLUMN", "Columns"]

Array = NDArray[Any]

#: Rows from which on eight at once are worth it: with 8 they take 1.2 times as long as one by one, with 16
#: 0.8 times, with 96 a third.
FEWEST = 12
#: How far, in voxels, a row may lean over the whole detector, and lie from where even spacing has it.
LEAN = 1e-12
#: Columns that are made together, some 500 bytes each.
AT_ONCE = 2**12
#: Data that the adjoint turns round at once, column after column.
TURNED = 2**22
#: Bytes per view and column of what is known of it, while it is made.
PER_COLUMN = 105


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of all views, (views, columns): their walks across `axis`, heights and lengths of steps.

    `heights` are a, b, c, d of the module's head, and the square of a step's length is e + f v + g v^2.
    """

    axis: int
    length: int
    rows: int
    walks: Walks
    heights: Array
    squares: Array

    @classmethod
    def of(cls, rays: VolumeRays) -> Columns | None:
        """Return the columns, or None where rays must be walked one by one."""
        views, size = rays.views, rays.size
        axis = int(np.argmax(np.abs(views.rows).sum(axis=0)))
        u, v = (other for other in range(3) if other != axis)
        rows, pitch = len(views.up), (views.up[-1] - views.up[0]) / max(len(views.up) - 1, 1)
        uneven = np.abs(views.up - (views.up[0] + pitch * np.arange(rows))).max() * np.abs(views.rows).max()
        lean = np.abs(views.up).max() * np.abs(views.rows[:, [u, v]]).max()
        if rows < FEWEST or max(uneven, lean) > LEAN or max(size[u], size[v]) > LONGEST:
            return None
        shape = (len(views.through), len(views.across))
        along_u, start, slope = np.empty(shape, dtype=np.bool_), np.empty(shape), np.empty(shape)
        heights, squares = np.empty((*shape, 4)), np.empty((*shape, 3))
        step = max(1, AT_ONCE // shape[1])
        for begin in range(0, shape[0], step):
            part = slice(begin, begin + step)
            found = _part(rays, part, (axis, u, v), pitch)
            if found is None:
                return None
            along_u[part], start[part], slope[part], heights[part], squares[part] = found
        # The length of a step is another in each row: it is not among the walks.
        walks = Walks.of(PlaneRays((size[u], size[v]), along_u, start, slope, squares[..., 0]))
        return cls(axis, size[axis], rows, walks, heights, squares)

    @property
    def padded(self) -> int:
        """Number of rows, with some that bring nothing: whole eights."""
        return -(-self.rows // LANES) * LANES

    @property
    def turned(self) -> int:
        """How many views the adjoint turns round at once."""
        views, across = self.walks.at.shape
        turned: int = min(views, max(1, TURNED // (across * self.padded)))
        return turned

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The columns as the kernels take them."""
        walks = self.walks
        return walks.along_u, walks.at, walks.per_step, walks.first, walks.last, self.heights, self.squares


def _part(
    rays: VolumeRays, chosen: slice, axes: tuple[int, int, int], pitch: float
) -> tuple[Array, Array, Array, Array, Array] | None:
    """Return along_u, start, slope, heights and squares of some views, or None; see Columns.of."""
    views, (axis, u, v) = rays.views.part(chosen), axes
    aside = views.across[:, None] * views.columns[:, None] + views.sag[:, None] * views.outwards[:, None]
    lift, rise = views.up[0] * views.rows[:, None], pitch * views.rows[:, None, axis]
    # In the order of Views.rays: of a diagonal ray the rounding decides which axis it walks along.
    point = views.centre[:, None] + aside + lift
    direction = np.broadcast_to(views.through[:, None], point.shape)
    if not views.parallel:
        source = views.through[:, None] + (lift if views.lifted else 0.0)
        point, direction = np.broadcast_to(source, point.shape), point - source
    # From row to row either all of a ray rises, or its end does.
    risen, turned = (rise, 0.0 * rise) if views.parallel or views.lifted else (0.0 * rise, rise)
    du, dv, up = (direction[..., other] for other in (u, v, axis))
    steepest = np.maximum(np.abs(up), np.abs(up + (len(views.up) - 1) * turned))
    size_u, size_v = np.abs(du), np.abs(dv)
    if not (steepest < (1 - 1e-9) * np.maximum(size_u, size_v)).all():
        return None
    along_u = size_u >= size_v
    inverse = 1 / np.where(along_u, du, dv)
    begun = np.where(along_u, point[..., u], point[..., v])
    slope = np.where(along_u, dv, du) * inverse
    start = np.where(along_u, point[..., v], point[..., u]) - slope * begun
    up, turned = up * inverse, turned * inverse
    heights = np.stack([point[..., axis] - up * begun, up, risen - turned * begun, turned], axis=-1)
    last = heights[..., 2] + heights[..., 3] * max(rays.size[u], rays.size[v])
    if max(np.abs(heights[..., 2]).max(), np.abs(last).max()) > STEEPEST:
        return None
    # The step's length squared: (d + v t) . metric (d + v t), t along the axis.
    across = (direction @ rays.metric) * inverse[..., None]
    even = (across * direction).sum(axis=-1) * inverse
    squares = [even, 2 * across[..., axis] * turned, rays.metric[axis, axis] * turned**2]
    return along_u, start, slope, heights, np.stack(squares, axis=-1)
