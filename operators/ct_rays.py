"""Parallel rays in the index plane of a slice: what every CT engine is given, and all it needs.

The ray of view v and detector column j is the line cu iu + cv iv = s_j over the array indices
(iu, iv) of a slice; cu, cv in mm per index are the projections of the array axes on the detector.
Joseph's method walks it one voxel at a time along the axis it runs along more, at

    position = base[v] + per_column[v] j + per_step[v] i        on the other axis, i the step,

interpolates linearly there and multiplies by the length of a step. It holds for any in-plane
affine: rotated, anisotropic or sheared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


@dataclass(frozen=True)
class ParallelRays:
    """Rays of all views over one slice of `size` = (nu, nv) voxels and `columns` detector columns."""

    size: tuple[int, int]
    columns: int
    along_u: NDArray[np.bool_]
    base: Float
    per_column: Float
    per_step: Float
    step_length: Float

    @classmethod
    def through(
        cls, size: tuple[int, int], axis_u: Float, axis_v: Float, origin: Float, columns: Float, angles: Float
    ) -> ParallelRays:
        """Return the rays for a slice whose array axes and first voxel lie at these device (x, y) in mm.

        `columns` are the detector positions in mm, evenly spaced, along (cos angle, sin angle).
        """
        detector = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        cu, cv = detector @ axis_u, detector @ axis_v
        along_u = np.abs(cv) >= np.abs(cu)
        across = np.where(along_u, cv, cu)
        pitch = columns[1] - columns[0] if len(columns) > 1 else 0.0
        per_step = -np.where(along_u, cu, cv) / across
        # One step along the walking axis moves by that axis plus per_step of the other one.
        walked = np.where(along_u[:, None], axis_u, axis_v)
        other = np.where(along_u[:, None], axis_v, axis_u)
        return cls(
            size=size,
            columns=len(columns),
            along_u=along_u,
            base=(columns[0] - detector @ origin) / across,
            per_column=pitch / across,
            per_step=per_step,
            step_length=np.linalg.norm(walked + per_step[:, None] * other, axis=1),
        )

    @property
    def data_shape(self) -> tuple[int, int]:
        """Number of views and of detector columns."""
        return len(self.base), self.columns

    def meet_the_slice(self) -> bool:
        """Tell whether any ray passes through any voxel."""
        width = np.where(self.along_u, self.size[1], self.size[0])
        steps = np.where(self.along_u, self.size[0], self.size[1])
        # Positions are linear in column and step: the extremes lie at the corners.
        corners = [
            self.base + self.per_column * column + self.per_step * step
            for column in (0, self.columns - 1)
            for step in (0 * steps, steps - 1)
        ]
        low, high = np.min(corners, axis=0), np.max(corners, axis=0)
        return bool(((low < width) & (high > -1)).any())
